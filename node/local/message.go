package local

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
)

// version is that of the protocol. Fields may be added to it; a message that would be misunderstood without one is a new
// version.
const version = 1

// maxMessage bounds a message, in bytes.
const maxMessage = 1 << 20

// What a plugin asks for.
const (
	verbAttach = "attach"
	verbDetach = "detach"
	verbClaim  = "claim"
	verbStatus = "status"
)

// A message is one line of JSON. The plugin sends a request and waits for the response, any number of times on one
// connection. When it closes the connection, or dies, the request under way is called off.
type request struct {
	Version int     `json:"version"`
	Verb    string  `json:"verb"`
	Wait    int64   `json:"waitMilliseconds,omitempty"` // how long the plugin has; 0: as long as the agent likes
	Record  *Record `json:"record,omitempty"`           // attach
	Keys    []Key   `json:"keys,omitempty"`             // detach
	Claim   *Claim  `json:"claim,omitempty"`            // claim
}

type response struct {
	Version   int       `json:"version"`
	Error     *answer   `json:"error,omitempty"`
	Addresses []Address `json:"addresses,omitempty"` // claim
	Status    *Status   `json:"status,omitempty"`    // status
}

// Claim asks for addresses of an attachment to be.
type Claim struct {
	Key  Key          `json:"key"`
	Pod  Pod          `json:"pod,omitzero"`
	Want []netip.Addr `json:"want,omitempty"` // addresses asked for by name; the agent chooses the others
}

// Address is one that the agent has claimed for an attachment.
type Address struct {
	Prefix  netip.Prefix `json:"prefix"`           // with the length that it has on the pod's interface
	Gateway netip.Addr   `json:"gateway,omitzero"` // the way out, where there is one
}

// Status is how an agent is doing.
type Status struct {
	Ready       bool      `json:"ready"`             // pods can be attached
	Problem     string    `json:"problem,omitempty"` // why not, and what to do about it
	Attachments int       `json:"attachments"`       // those it knows
	Started     time.Time `json:"started,omitzero"`
}

// decodeRequest reads a request and checks that it is one this version can answer.
func decodeRequest(line []byte) (r request, err error) {
	// The version first: what another version's fields mean is not ours to judge.
	var head struct {
		Version int    `json:"version"`
		Verb    string `json:"verb"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return r, &podweft.FieldError{Field: "request", Problem: err.Error()}
	}
	if head.Version != version {
		return r, fmt.Errorf("%w: version %d was spoken, the agent knows %d", ErrVersion, head.Version, version)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, &podweft.FieldError{Field: "request", Problem: err.Error()}
	}
	return r, r.validate()
}

func (r request) validate() error {
	problems := flaws{}
	switch r.Verb {
	case verbAttach:
		if r.Record == nil {
			problems.add("record", nil, "is missing")
			break
		}
		return r.Record.Validate()
	case verbDetach:
		for i, k := range r.Keys {
			problems.key(fmt.Sprintf("keys[%d].", i), k)
		}
	case verbClaim:
		if r.Claim == nil {
			problems.add("claim", nil, "is missing")
			break
		}
		problems.key("claim.key.", r.Claim.Key)
		for i, a := range r.Claim.Want {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				problems.add(fmt.Sprintf("claim.want[%d]", i), a, "is not a pod's address")
			}
		}
	case verbStatus:
	default:
		return fmt.Errorf("%w: the agent does not know %q", ErrVersion, r.Verb)
	}
	return problems.join()
}

// decodeResponse reads a response to a verb.
func decodeResponse(verb string, line []byte) (r response, err error) {
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("%w: not an answer: %w", ErrVersion, err)
	}
	switch {
	case r.Error != nil:
		return r, r.Error
	case r.Version != version:
		return r, fmt.Errorf("%w: the agent answers in version %d, the plugin knows %d", ErrVersion, r.Version, version)
	case verb == verbStatus && r.Status == nil:
		return r, fmt.Errorf("%w: the agent's answer has no status", ErrVersion)
	}
	for _, a := range r.Addresses {
		if !a.Prefix.IsValid() {
			return r, fmt.Errorf("%w: the agent's answer has no address", ErrVersion)
		}
	}
	return r, nil
}

// encode writes a message as a line.
func encode(message any) ([]byte, error) {
	line, err := json.Marshal(message)
	if err == nil && len(line) >= maxMessage {
		err = &podweft.FieldError{Field: "message", Value: len(line), Problem: "bytes are too many", Remedy: fmt.Sprintf("send fewer than %d", maxMessage)}
	}
	return append(line, '\n'), err
}

// lines takes a stream of messages apart. A line that does not end was cut off by its writer's death and is none.
func lines(r io.Reader) *bufio.Scanner {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxMessage)
	in.Split(func(data []byte, atEOF bool) (advance int, token []byte, err error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		return 0, nil, nil
	})
	return in
}
