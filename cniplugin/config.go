package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/word"
)

// Latest is the version of the CNI specification that this package serves; it serves all before it too.
const Latest = "1.1.0"

// config is a network's configuration as it comes on standard input: the specification's own fields, those of the bridge
// plugin and host-local that users rely on, and ours. Names are matched whatever their case, which runtimes need: containerd
// writes HostPort where others write hostPort.
type config struct {
	CNIVersion    string
	Name          string
	Type          string
	Args          cniArgs
	RuntimeConfig runtimeConfig
	PrevResult    json.RawMessage
	DNS           types.DNS

	// The attachments that live, in a GC call: the specification's name, and that of libcni.
	Valid       []attachment
	Attachments []attachment

	Mode             string // ours: "bridge" or "ptp"; empty is what the type says
	Bridge           string
	MTU              int
	IsGateway        *bool
	IsDefaultGateway *bool
	HairpinMode      bool
	PortIsolation    bool
	IPMasq           *bool
	IPAM             ipamConfig
	Vlan             int
	VlanTrunk        []any
	MacSpoofChk      bool
	NoInterface      bool
	EnableDAD        bool

	SubnetFile string
	DataDir    string // the flannel plugin's
	Delegate   map[string]json.RawMessage

	StateDir string
	LogFile  string
	LogLevel string

	RequireAgent bool // ours: no pod starts while the node's agent is away

	raw   []byte                     // as it came
	came  map[string]json.RawMessage // raw's fields
	lease string                     // the subnet file as it was read, or as an ADD has recorded it
}

type attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

type cniArgs struct {
	CNI struct {
		IPs []string `json:"ips"`
		MAC string   `json:"mac"`
	} `json:"cni"`
}

type runtimeConfig struct {
	PortMappings []portMapping
	IPs          []string
	MAC          string
	IPRanges     [][]ipRange
	DNS          types.DNS
	Bandwidth    bandwidth
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

type bandwidth struct {
	IngressRate  uint64 // bits per second, to the pod
	IngressBurst uint64 // bits
	EgressRate   uint64
	EgressBurst  uint64
}

// ipamConfig is host-local's configuration.
type ipamConfig struct {
	Type       string
	Ranges     [][]ipRange
	Routes     []ipRoute
	ResolvConf string
	DataDir    string
	Excluded   []string // ours: addresses and prefixes never given out
	ipRange             // the old form: one range
}

type ipRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

type ipRoute struct {
	Dst      string `json:"dst"`
	GW       string `json:"gw"`
	MTU      int    `json:"mtu"`
	AdvMSS   int    `json:"advmss"`
	Priority int    `json:"priority"`
	Table    int    `json:"table"`
	Scope    int    `json:"scope"`
}

// UnmarshalJSON takes routes as CNI writes them, and the bare prefixes that some configurations have.
func (r *ipRoute) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &r.Dst)
	}
	type plain ipRoute
	return json.Unmarshal(raw, (*plain)(r))
}

// readConfig reads and checks what every call but VERSION needs.
func readConfig(stdin io.Reader) (*config, error) {
	raw, err := readInput(stdin)
	if err != nil {
		return nil, err
	}
	return parseConfig(raw)
}

// maxConfig is more than any configuration has, in bytes: one that opens all ports of TCP and UDP, each at an IPv6 address, has less.
const maxConfig = 16 << 20

func readInput(stdin io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(stdin, maxConfig+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fail(CodeIO, "standard input does not end: whoever calls a plugin closes it behind the configuration", err)
	case err != nil:
		return nil, fail(CodeIO, "read the configuration from standard input", err)
	case len(raw) > maxConfig:
		return nil, &Error{Code: CodeDecode, Msg: fmt.Sprintf("the configuration is longer than %d bytes: give a network's", maxConfig)}
	}
	return raw, nil
}

func parseConfig(raw []byte) (*config, error) {
	c := &config{raw: raw}
	if err := json.Unmarshal(raw, &c.came); err != nil {
		return c, notCNI(err)
	}
	if err := c.read(c.fields()); err != nil {
		return c, err
	}
	if c.CNIVersion == "" {
		c.CNIVersion = "0.1.0" // so says package version of CNI's library
	}
	if !slices.Contains(version.All.SupportedVersions(), c.CNIVersion) {
		return c, &Error{Code: CodeVersion, Msg: fmt.Sprintf(
			"cniVersion %.100q is not supported: use one of %s", c.CNIVersion, strings.Join(version.All.SupportedVersions(), ", "))}
	}
	if !word.Valid(c.Name, maxNetwork) {
		return c, &Error{Code: CodeConfig, Msg: fmt.Sprintf(
			"name: %.100q cannot name a network: use up to %d letters, digits, dots, dashes and underscores, a letter or digit first",
			c.Name, maxNetwork)}
	}
	return c, nil
}

// read reads some of the configuration's fields.
func (c *config) read(fields []field) error {
	if err := assign(c.came, fields); err != nil {
		return notCNI(err)
	}
	return nil
}

func notCNI(err error) error {
	return fail(CodeDecode, "the configuration is not JSON as CNI has it", err)
}

// since is the version of the specification that brought a command.
var since = map[string]string{"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}

// serves reports whether the command exists in the configuration's version.
func (c *config) serves(command string) error {
	first, late := since[command]
	if !late {
		return nil
	}
	if ok, err := version.GreaterThanOrEqualTo(c.CNIVersion, first); err != nil || ok {
		return err
	}
	return &Error{Code: CodeVersion, Msg: fmt.Sprintf(
		"%s needs cniVersion %s or later in the configuration, which has %s", command, first, c.CNIVersion)}
}

// refuse names the fields that this plugin cannot serve.
func (c *config) refuse() error {
	var errs []error
	if c.Vlan != 0 {
		errs = append(errs, unsupported("vlan", c.Vlan, "leave it out, or name the bridge plugin of the reference set as type"))
	}
	if len(c.VlanTrunk) > 0 {
		errs = append(errs, unsupported("vlanTrunk", c.VlanTrunk, "leave it out, or name the bridge plugin of the reference set as type"))
	}
	if c.Mode != "" && c.Mode != "bridge" && c.Mode != "ptp" {
		errs = append(errs, &podweft.FieldError{
			Field: "mode", Value: c.Mode, Problem: "is no way to attach pods", Remedy: `write "bridge" or "ptp", or leave it out`,
		})
	}
	if c.routed() && c.PortIsolation {
		errs = append(errs, unsupported("portIsolation", true, "leave it out: routed pods have no neighbours, and a policy says whom they reach"))
	}
	if c.MacSpoofChk {
		errs = append(errs, unsupported("macspoofchk", true, "leave it out; portIsolation keeps pods apart"))
	}
	if c.NoInterface {
		errs = append(errs, unsupported("disableContainerInterface", true, "leave it out"))
	}
	if c.EnableDAD {
		errs = append(errs, unsupported("enabledad", true, "leave it out: no address is given twice, and waiting takes seconds"))
	}
	var masqBackend *string
	if err := c.read([]field{{"ipMasqBackend", &masqBackend}}); err != nil {
		return err
	}
	errs = append(errs, checkBackend("ipMasqBackend", masqBackend))
	for _, r := range c.IPAM.Routes {
		if r.MTU != 0 || r.AdvMSS != 0 || r.Priority != 0 || r.Table != 0 && r.Table != 254 || r.Scope != 0 {
			errs = append(errs, unsupported("ipam.routes", fmt.Sprintf("%+v", r), "give dst and gw only"))
		}
	}
	return errors.Join(errs...)
}

// is reports whether an optional field is true.
func is(field *bool, otherwise bool) bool {
	if field == nil {
		return otherwise
	}
	return *field
}
