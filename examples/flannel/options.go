package flannel

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet/etcd"
)

// Options are the daemon's settings. ParseOptions makes them of flags and of the environment.
type Options struct {
	NodeName  string        // what the node's lease goes by
	Underlay  node.Choice   // the first of choices, until chooseUnderlay has tried them
	choices   []node.Choice // in the order in which they are tried
	NetNS     string        // the node's network namespace; empty: the caller's
	Owner     string        // marks what the daemon makes, for a second one on a node
	IPMasq    bool
	Forward   bool          // pass a host's firewall that drops by default
	Adopt     bool          // take over from flanneld
	StoreWait time.Duration // how long a start waits for the store and for its configuration

	Etcd                   etcd.Config
	CAFile, Cert, Key      string
	Server                 embedded.Config // an etcd of our own, where Client is set
	SubnetFile, StateFile  string
	PluginDir              string // the CNI plugin's state; empty: the plugin works alone
	Healthz                string // address of the HTTP server; empty: none
	Logger                 *slog.Logger
	LogFormat, LogLevel    string
	docker                 dockerOptions
	kube                   kubeOptions
	cni                    cniOptions
	nodeNamed              string // the node's name, if anybody gave one
	settled                func() // called when pods can be started; nil: nobody is
	iface, regex           texts
	reach                  string
	publicIP, publicIPv6   string
	healthzIP              string
	healthzPort            int
	endpoints              string
	etcdListen, etcdMember string
	version                bool
	verbosity              int
	idle                   []idle // that somebody gave
}

// envPrefix begins the environment's name for each flag: FLANNELD_ETCD_ENDPOINTS.
const envPrefix = "FLANNELD_"

func (o *Options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("podweft-flannel", flag.ContinueOnError)
	hostname, _ := os.Hostname()
	o.nodeNamed = os.Getenv("NODE_NAME")
	f.StringVar(&o.NodeName, "node-name", cmp.Or(o.nodeNamed, hostname), "what the node's lease goes by; unique in the cluster")
	f.Var(&o.iface, "iface", "interface to the other nodes, or an address of it; of several the first that is there; default: that of the default route")
	f.Var(&o.regex, "iface-regex", "pattern of the interface's name or address; of several, after all --iface, the first that any has")
	f.StringVar(&o.reach, "iface-can-reach", "", "address that the interface leads to")
	f.StringVar(&o.publicIP, "public-ip", "", "the address that other nodes send to: one of an interface, which it chooses, or that of a NAT before the node")
	f.StringVar(&o.publicIPv6, "public-ipv6", "", "the same in IPv6")
	f.StringVar(&o.NetNS, "netns", "", "network namespace to work in; default: the daemon's own")
	f.StringVar(&o.Owner, "owner", "", "mark of what this daemon makes, where a node has two")
	f.BoolVar(&o.IPMasq, "ip-masq", false, "give pods the node's address towards the world outside the network")
	f.BoolVar(&o.Forward, "iptables-forward-rules", true, "accept what comes from and goes to pods where iptables' FORWARD chain drops, as with Docker")
	f.BoolVar(&o.Adopt, "adopt-flannel", true, "take over in place what flanneld has left on the node: its links, routes and rules")
	f.StringVar(&o.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "where to tell the CNI plugin the node's subnet")
	f.StringVar(&o.StateFile, "state-file", "/run/flannel/lease.json", "where to remember the node's lease; empty: nowhere")
	f.StringVar(&o.PluginDir, "cni-state-dir", cniplugin.DefaultStateDir, "the CNI plugin's state, by which the daemon helps it; one daemon of a node does; empty: none")
	f.StringVar(&o.endpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd's URLs, with commas between them")
	f.StringVar(&o.Etcd.Prefix, "etcd-prefix", etcd.DefaultPrefix, "what all keys begin with")
	f.StringVar(&o.CAFile, "etcd-cafile", "", "certificate of the CA that signed etcd's")
	f.StringVar(&o.Cert, "etcd-certfile", "", "our certificate towards etcd")
	f.StringVar(&o.Key, "etcd-keyfile", "", "its key")
	f.StringVar(&o.Etcd.Username, "etcd-username", "", "our name towards etcd")
	f.StringVar(&o.Etcd.Password, "etcd-password", "", "its password")
	f.DurationVar(&o.StoreWait, "store-wait", time.Minute, "how long a start waits for etcd and for its configuration before it gives up")
	f.StringVar(&o.etcdListen, "etcd-listen", "", "run an etcd in this process and serve it at this URL")
	f.StringVar(&o.Server.ClientTLS.CA, "etcd-listen-cafile", "", "certificate of the CA that has to have signed its clients'; empty: they need none")
	f.StringVar(&o.Server.ClientTLS.Cert, "etcd-listen-certfile", "", "its certificate towards clients, for https; also ours towards it, unless --etcd-certfile and the like are given")
	f.StringVar(&o.Server.ClientTLS.Key, "etcd-listen-keyfile", "", "its key")
	f.StringVar(&o.Server.Dir, "etcd-data", "/var/lib/podweft/etcd", "its data")
	f.StringVar(&o.etcdMember, "etcd-name", "", "its name among the members; default: the node's name")
	f.StringVar(&o.Server.Peer, "etcd-peer", "", "its URL towards the other members")
	f.StringVar(&o.Server.PeerTLS.CA, "etcd-peer-cafile", "", "certificate of the CA that signed the members'")
	f.StringVar(&o.Server.PeerTLS.Cert, "etcd-peer-certfile", "", "its certificate towards the other members, for https")
	f.StringVar(&o.Server.PeerTLS.Key, "etcd-peer-keyfile", "", "its key")
	f.StringVar(&o.Server.Cluster, "etcd-cluster", "", "all members: a=http://10.0.0.1:2380,b=...; default: it is alone")
	f.StringVar(&o.healthzIP, "healthz-ip", "0.0.0.0", "address of /healthz, /readyz and /metrics")
	f.IntVar(&o.healthzPort, "healthz-port", 0, "port of /healthz, /readyz and /metrics; 0: none")
	f.StringVar(&o.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.IntVar(&o.verbosity, "v", 0, "1 and more: --log-level=debug")
	f.BoolVar(&o.version, "version", false, "print the version and exit")
	o.idleFlags(f)
	o.kube.flags(f)
	o.cni.flags(f)
	o.docker.flags(f)
	return f
}

// ParseOptions reads flags, and from the environment those that are not given. What it returns beside the Options are the
// arguments that are no flags. The error is one sentence; it is flag.ErrHelp after it has written the help to out.
func ParseOptions(args []string, getenv func(string) string, out io.Writer) (*Options, []string, error) {
	o := &Options{}
	f := o.flags()
	f.SetOutput(io.Discard)
	if err := f.Parse(args); err != nil {
		if err == flag.ErrHelp { //nolint:errorlint // the flag package returns it bare
			f.SetOutput(out)
			f.PrintDefaults()
		}
		return nil, nil, err
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var err error
	f.VisitAll(func(fl *flag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if text := getenv(name); text != "" && !given[fl.Name] && err == nil {
			if bad := fl.Value.Set(text); bad != nil {
				err = &podweft.FieldError{Field: name, Value: fmt.Sprintf("%q", text), Problem: "cannot be understood", Remedy: bad.Error()}
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	if given["node-name"] || getenv(envPrefix+"NODE_NAME") != "" {
		o.nodeNamed = o.NodeName
	}
	return o, f.Args(), o.complete()
}

// complete makes of texts what they mean.
func (o *Options) complete() (err error) {
	bad := func(flag, value, problem, remedy string) error {
		return &podweft.FieldError{Field: "--" + flag, Value: fmt.Sprintf("%q", value), Problem: problem, Remedy: remedy}
	}
	o.Etcd.Endpoints = strings.FieldsFunc(o.endpoints, func(r rune) bool { return r == ',' || r == ' ' })
	if err := o.completeChoices(bad); err != nil {
		return err
	}
	if o.verbosity > 0 {
		o.LogLevel = "debug"
	}
	if o.etcdListen != "" {
		o.Server.Client, o.Server.Name = o.etcdListen, cmp.Or(o.etcdMember, o.NodeName)
		o.Etcd.Endpoints = []string{o.etcdListen}
	}
	if o.healthzPort != 0 {
		addr, err := netip.ParseAddr(o.healthzIP)
		if err != nil || o.healthzPort < 0 || o.healthzPort > 65535 {
			return bad("healthz-ip", fmt.Sprintf("%s:%d", o.healthzIP, o.healthzPort), "is not an address and a port", "write --healthz-ip=0.0.0.0 --healthz-port=10254")
		}
		o.Healthz = netip.AddrPortFrom(addr, uint16(o.healthzPort)).String()
	}
	if own := o.Server.ClientTLS; o.etcdListen != "" && o.CAFile == "" && o.Cert == "" && o.Key == "" {
		o.CAFile, o.Cert, o.Key = own.CA, own.Cert, own.Key
	}
	if o.Etcd.TLS, err = loadTLS(o.CAFile, o.Cert, o.Key); err != nil {
		return err
	}
	return o.Etcd.Validate()
}

// logger writes to w, as the options say.
func (o *Options) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return nil, &podweft.FieldError{Field: "--log-level", Value: o.LogLevel, Problem: "is no level", Remedy: "write debug, info, warn or error"}
	}
	options := &slog.HandlerOptions{Level: level}
	switch o.LogFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, &podweft.FieldError{Field: "--log-format", Value: o.LogFormat, Problem: "is no format", Remedy: "write text or json"}
}
