package bgp_test

import "errors"

const agentVar = "PODWEFT_BGP_AGENT"

func runAgent() error { return errors.New("nothing") }
