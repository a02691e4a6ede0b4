package ipip_test

import (
	"testing"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) {
	testnet.Main(sabotage.Tests(m, func(netns string) (*ipip.Driver, error) { return ipip.New(ipip.Config{NetNS: netns}) }))
}
