package calico

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
	blocketcd "github.com/podweft/podweft/ipam/block/etcd"
	"github.com/podweft/podweft/node"
)

// Options are the command's settings: flags, Calico's environment, and Calico's objects in files. ParseOptions makes them.
type Options struct {
	Config  Config
	Healthz string // address of the HTTP server; empty: none
	JSON    bool   // of what is printed
	Force   bool   // forget takes a node that lives for gone too
	Logger  *slog.Logger

	cluster *cluster        // nil where nothing is in Kubernetes
	server  embedded.Config // an etcd of our own, where Client is set
	install installation
	gone    string // the node to forget

	texts     map[string]*string // flags that are more than their text
	files     texts
	policies  texts
	load      func() error // reads files, of which the node's labels choose
	inCluster said         // what the cluster says of the node
	closers   []io.Closer
}

// texts is a flag that may be given several times.
type texts []string

// String implements flag.Value.
func (t *texts) String() string { return strings.Join(*t, " ") }

// Set implements flag.Value.
func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}

// settings are flags whose text has a meaning of its own, with the variable of Calico's environment that each goes by.
var settings = []struct{ flag, variable, otherwise, help string }{
	{"node-name", "NODENAME", "", "this node's name, unique in the cluster; default: the host's"},
	{"node-labels", "NODE_LABELS", "", "what pools select nodes by: rack=a,zone=b"},
	{"network", "CALICO_NETWORK_NAME", DefaultNetwork, "the CNI network's name, which marks what the agent makes"},
	{"ip", "IP", "autodetect", "the node's address towards other nodes: one of its own, or autodetect"},
	{"ip-autodetection", "IP_AUTODETECTION_METHOD", "first-found", "first-found, interface=PATTERN, can-reach=ADDRESS or, in Kubernetes, kubernetes-internal-ip"},
	{"mtu", "FELIX_DEVICEMTU", "0", "MTU of the underlay; 0: that of the interface"},
	{"ipv4-pool-cidr", "CALICO_IPV4POOL_CIDR", "", "IPv4 addresses of pods"},
	{"ipv4-pool-block-size", "CALICO_IPV4POOL_BLOCK_SIZE", "26", "prefix length of its blocks"},
	{"ipv4-pool-ipip", "CALICO_IPV4POOL_IPIP", "Never", "IP in IP: Never, CrossSubnet or Always"},
	{"ipv4-pool-vxlan", "CALICO_IPV4POOL_VXLAN", "Never", "VXLAN: Never, CrossSubnet or Always"},
	{"ipv4-pool-nat-outgoing", "CALICO_IPV4POOL_NAT_OUTGOING", "true", "give its pods the node's address towards the world outside"},
	{"ipv4-pool-node-selector", "CALICO_IPV4POOL_NODE_SELECTOR", "all()", "nodes that use it"},
	{"ipv6-pool-cidr", "CALICO_IPV6POOL_CIDR", "", "IPv6 addresses of pods"},
	{"ipv6-pool-block-size", "CALICO_IPV6POOL_BLOCK_SIZE", "122", "prefix length of its blocks"},
	{"ipv6-pool-ipip", "CALICO_IPV6POOL_IPIP", "Never", "IP in IP over IPv6: Never, CrossSubnet or Always"},
	{"ipv6-pool-vxlan", "CALICO_IPV6POOL_VXLAN", "Never", "VXLAN: Never, CrossSubnet or Always"},
	{"ipv6-pool-nat-outgoing", "CALICO_IPV6POOL_NAT_OUTGOING", "false", "give its pods the node's address towards the world outside"},
	{"ipv6-pool-node-selector", "CALICO_IPV6POOL_NODE_SELECTOR", "all()", "nodes that use it"},
	{"backend", "CALICO_NETWORKING_BACKEND", "bird", "where routes come from: bird (or bgp) for BGP, vxlan (or store) for the store"},
	{"as", "AS", "", "the node's AS; default: that of its Node, of the BGPConfiguration, or 64512"},
	{"router-id", "CALICO_ROUTER_ID", "", "the node's number in BGP, in the form of an address, or hash; default: its IPv4 address"},
	{"cluster-id", "CALICO_ROUTE_REFLECTOR_CLUSTER_ID", "", "makes the node a route reflector; default: that of its Node, if there is one"},
	{"bgp-port", "CALICO_BGP_PORT", "", "where speakers listen; default: that of the BGPConfiguration, else 179"},
	{"bgp-mesh", "CALICO_BGP_MESH", "", "full, reflectors or none; default: what the BGPConfiguration says, else full"},
	{"bgp-password", "CALICO_BGP_PASSWORD", "", "of the sessions of the mesh"},
	{"bgp-restart-time", "CALICO_BGP_RESTART_TIME", "2m", "how long peers keep routes while the agent is away"},
	{"vxlan-vni", "FELIX_VXLANVNI", strconv.Itoa(DefaultVNI), "number of the VXLAN network"},
	{"vxlan-port", "FELIX_VXLANPORT", strconv.Itoa(DefaultPort), "its UDP port"},
	{"etcd-endpoints", "ETCD_ENDPOINTS", "", "etcd's URLs, with commas between them: where blocks and nodes are kept"},
	{"etcd-prefix", "ETCD_PREFIX", blocketcd.DefaultPrefix, "what all keys begin with"},
	{"etcd-ca-file", "ETCD_CA_CERT_FILE", "", "certificate of the CA that signed etcd's"},
	{"etcd-cert-file", "ETCD_CERT_FILE", "", "our certificate towards etcd"},
	{"etcd-key-file", "ETCD_KEY_FILE", "", "its key"},
	{"etcd-username", "ETCD_USERNAME", "", "our name towards etcd"},
	{"etcd-password", "ETCD_PASSWORD", "", "its password"},
	{"datastore", "DATASTORE_TYPE", "", "kubernetes: blocks, nodes and policies are in Kubernetes; default: etcdv3"},
	{"kubeconfig", "KUBECONFIG", "", "how Kubernetes is reached; default: the pod's service account"},
	{"kube-api-url", "K8S_API_ENDPOINT", "", "the API server's URL; default: the kubeconfig's, or as a pod reaches it"},
	{"etcd-listen", "CALICO_ETCD_LISTEN", "", "run an etcd in this process, serve it at this URL, and keep blocks and nodes there"},
	{"etcd-listen-ca-file", "CALICO_ETCD_LISTEN_CA_CERT_FILE", "", "certificate of the CA that has to have signed its clients'; empty: they need none"},
	{"etcd-listen-cert-file", "CALICO_ETCD_LISTEN_CERT_FILE", "", "its certificate towards clients, for https; also ours towards it, unless --etcd-cert-file and the like are given"},
	{"etcd-listen-key-file", "CALICO_ETCD_LISTEN_KEY_FILE", "", "its key"},
	{"etcd-data", "CALICO_ETCD_DATA", "/var/lib/podweft/etcd", "its data"},
	{"etcd-peer", "CALICO_ETCD_PEER", "", "its URL towards the other members"},
	{"etcd-peer-ca-file", "CALICO_ETCD_PEER_CA_CERT_FILE", "", "certificate of the CA that signed the members'"},
	{"etcd-peer-cert-file", "CALICO_ETCD_PEER_CERT_FILE", "", "its certificate towards the other members, for https"},
	{"etcd-peer-key-file", "CALICO_ETCD_PEER_KEY_FILE", "", "its key"},
	{"etcd-cluster", "CALICO_ETCD_CLUSTER", "", "all members, by their nodes' names: node-1=http://10.0.0.1:2380,...; default: it is alone"},
	{"store-dir", "CALICO_STORE_DIR", "", "instead of etcd a directory, which the nodes of one machine share"},
	{"grace", "CALICO_NODE_GRACE", "1h", "how long a node is not heard of before its blocks are others' to have and it is forgotten"},
	{"log-level", "CALICO_STARTUP_LOGLEVEL", "info", "debug, info, warn or error"},
	{"log-format", "CALICO_LOG_FORMAT", "text", "text or json"},
}

func (o *Options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("podweft-calico", flag.ContinueOnError)
	o.texts = map[string]*string{}
	for _, s := range settings {
		o.texts[s.flag] = f.String(s.flag, s.otherwise, s.help+" ("+s.variable+")")
	}
	f.Var(&o.files, "config", "file with IPPool, BGPPeer, BGPFilter, BGPConfiguration and Node objects, as calicoctl writes them, which is read at the start; of several all")
	f.Var(&o.policies, "policies", "file, or directory of files, followed as they change, with NetworkPolicies, Namespaces and all Pods: one that is not there is closed to all; of several all")
	f.StringVar(&o.Config.StateDir, "state-dir", "", "what lives as long as the pods do; default: that of the CNI plugin")
	f.StringVar(&o.Config.CNIConf, "cni-conf", "", "where to write the CNI configuration when pods can come, such as /etc/cni/net.d/10-podweft.conflist")
	f.BoolVar(&o.Config.Forward, "iptables-forward-rules", true, "accept what comes from and goes to pods where iptables' FORWARD chain drops, as with Docker")
	f.StringVar(&o.Healthz, "healthz", "", "address of /healthz, /readyz, /status and /metrics, such as :9099; default: a socket alone")
	f.BoolVar(&o.JSON, "json", false, "status, ipam show and ipam check: print JSON")
	f.BoolVar(&o.Force, "force", false, "forget: a node that still counts as alive too")
	f.StringVar(&o.install.plugin, "cni-plugin", "/podweft-cni", "install: the CNI plugin to install")
	f.StringVar(&o.install.binDir, "cni-bin-dir", "/opt/cni/bin", "install: where container runtimes look for plugins")
	return f
}

// ParseOptions reads flags, and Calico's environment for those that are not given. What it returns beside the Options are the
// arguments that are no flags. The error is one sentence; it is flag.ErrHelp after it has written the help to out.
func ParseOptions(args []string, getenv func(string) string, out io.Writer) (*Options, []string, error) {
	o := &Options{}
	f := o.flags()
	f.SetOutput(io.Discard)
	var words []string
	for len(args) > 0 { // flags may stand behind a command too
		if err := f.Parse(args); err != nil {
			if err == flag.ErrHelp { //nolint:errorlint // the flag package returns it bare
				f.SetOutput(out)
				f.PrintDefaults()
			}
			return nil, nil, err
		}
		if args = f.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	names := map[string]string{}
	for _, s := range settings {
		names[s.flag] = "--" + s.flag
		if text := getenv(s.variable); text != "" && !given[s.flag] {
			*o.texts[s.flag], names[s.flag] = text, s.variable
		}
	}
	if slices.Equal(words, []string{"install"}) { // which has nothing to do with the network
		return o, words, nil
	}
	return o, words, o.complete(names)
}

// reader reads texts and remembers what could not be.
type reader struct {
	texts map[string]*string
	names map[string]string // what to call each in a message
	err   error
}

func (r *reader) text(flag string) string { return strings.TrimSpace(*r.texts[flag]) }

func (r *reader) bad(flag, problem, remedy string) {
	if r.err == nil {
		r.err = &podweft.FieldError{Field: r.names[flag], Value: fmt.Sprintf("%q", r.text(flag)), Problem: problem, Remedy: remedy}
	}
}

// number is a whole number up to a bound; an empty text is zero.
func (r *reader) number(flag string, most uint64) uint64 {
	text := r.text(flag)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > most {
		r.bad(flag, "is not a number that it can be", fmt.Sprintf("write 0 to %d", most))
	}
	return n
}

func (r *reader) address(flag string) (a netip.Addr) {
	if text := r.text(flag); text != "" {
		var err error
		if a, err = netip.ParseAddr(text); err != nil {
			r.bad(flag, "is not an address", "write one like 192.0.2.1")
		}
	}
	return a
}

func (r *reader) duration(flag string) time.Duration {
	d, err := time.ParseDuration(r.text(flag))
	if err != nil {
		r.bad(flag, "is no time", "write one like 2m")
	}
	return d
}

// pool is the one that the settings with that prefix name, if they do.
func (r *reader) pool(family string) (p Pool, named bool) {
	cidr := r.text(family + "-pool-cidr")
	if cidr == "" || cidr == "none" {
		return p, false
	}
	p.Name = "default-" + family + "-ippool"
	var err error
	if p.Prefix, err = netip.ParsePrefix(cidr); err != nil {
		r.bad(family+"-pool-cidr", "is not a network", "write one like 10.244.0.0/16")
	} else if p.Prefix = p.Prefix.Masked(); p.is4() != (family == "ipv4") {
		r.bad(family+"-pool-cidr", "is of the other family", "")
	}
	p.BlockBits = int(r.number(family+"-pool-block-size", 128))
	for flag, mode := range map[string]*Mode{"-pool-ipip": &p.IPIP, "-pool-vxlan": &p.VXLAN} {
		if *mode, err = ParseMode(r.text(family + flag)); err != nil {
			r.bad(family+flag, "is no mode", "write Never, CrossSubnet or Always")
		}
	}
	if p.NAT, err = strconv.ParseBool(r.text(family + "-pool-nat-outgoing")); err != nil {
		r.bad(family+"-pool-nat-outgoing", "is neither true nor false", "")
	}
	if p.Nodes, err = ParseSelector(r.text(family + "-pool-node-selector")); err != nil {
		r.bad(family+"-pool-node-selector", "is not a selector", "write all(), has(label) or label == 'value'")
	}
	return p, true
}

// complete makes of texts what they mean.
func (o *Options) complete(names map[string]string) error {
	r := &reader{texts: o.texts, names: names}
	c := &o.Config
	hostname, _ := os.Hostname()
	c.Node, c.Network = cmp.Or(r.text("node-name"), strings.ToLower(hostname)), r.text("network")
	c.Labels = r.labels("node-labels")
	c.Underlay = r.underlay()
	c.MTU = int(r.number("mtu", 65535))
	for _, family := range []string{"ipv4", "ipv6"} {
		if p, named := r.pool(family); named {
			c.Pools = append(c.Pools, p)
		}
	}
	switch r.text("backend") {
	case "bird", "bgp":
		c.Routes = ByBGP
	case "vxlan", "store":
		c.Routes = ByStore
	default:
		r.bad("backend", "is no source of routes", "write bird or vxlan")
	}
	c.BGP.ClusterID = r.address("cluster-id")
	if r.text("router-id") == "hash" {
		c.BGP.RouterID = routerID(c.Node)
	} else {
		c.BGP.RouterID = r.address("router-id")
	}
	c.BGP.RestartTime = r.duration("bgp-restart-time")
	c.BGP.Password = r.text("bgp-password")
	c.VNI, c.VXLANPort = uint32(r.number("vxlan-vni", 1<<24-1)), uint16(r.number("vxlan-port", 65535))
	if r.err != nil {
		return r.err
	}
	if len(o.policies) > 0 {
		c.Policies = PolicyFiles(o.policies)
	}
	c.Grace = r.duration("grace")
	pools, own, labels := c.Pools, c.BGP, c.Labels
	own.AS, own.Port, own.Mesh = uint32(r.number("as", 1<<32-1)), int(r.number("bgp-port", 65535)), Mesh(r.text("bgp-mesh"))
	if r.err != nil {
		return r.err
	}
	o.load = func() error {
		c.Pools, c.BGP, c.Labels = slices.Clone(pools), own, labels
		if len(labels) == 0 {
			c.Labels = o.inCluster.labels
		}
		object, err := o.loadFiles()
		// What a node says of itself goes before what is said of it, and that before what is said of all.
		c.BGP.AS = cmp.Or(own.AS, o.inCluster.as, object.as, c.BGP.AS)
		c.BGP.ClusterID = cmp.Or(own.ClusterID, o.inCluster.cluster, object.cluster)
		c.BGP.Port, c.BGP.Mesh = cmp.Or(own.Port, c.BGP.Port), cmp.Or(own.Mesh, c.BGP.Mesh)
		c.BGP.Password = cmp.Or(own.Password, c.BGP.Password)
		return err
	}
	if err := o.load(); err != nil {
		return err
	}
	return o.openStore(r)
}

func (r *reader) labels(flag string) map[string]string {
	labels := map[string]string{}
	for _, pair := range strings.FieldsFunc(r.text(flag), func(c rune) bool { return c == ',' }) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			r.bad(flag, "are not labels", "write rack=a,zone=b")
		}
		labels[key] = value
	}
	return labels
}

// underlay is how the interface to the other nodes is chosen.
func (r *reader) underlay() (c node.Choice) {
	if ip := r.text("ip"); ip != "autodetect" && ip != "" {
		address, _, _ := strings.Cut(ip, "/")
		if _, err := netip.ParseAddr(address); err != nil {
			r.bad("ip", "is not an address", "write one of the node's, or autodetect")
		}
		c.Name = address
		return c
	}
	method, value, _ := strings.Cut(r.text("ip-autodetection"), "=")
	switch method {
	case "first-found", "":
	case "interface":
		pattern, err := regexp.Compile(value)
		if err != nil {
			r.bad("ip-autodetection", "has a pattern that is none", err.Error())
		}
		c.Match = pattern
	case "kubernetes-internal-ip": // see cluster.settle
	case "can-reach":
		a, err := netip.ParseAddr(value)
		if err != nil {
			r.bad("ip-autodetection", "names no address", "write can-reach=192.0.2.1")
		}
		c.Reach = a
	default:
		r.bad("ip-autodetection", "is no method of ours", "write first-found, interface=PATTERN or can-reach=ADDRESS")
	}
	return c
}

// logger writes to w, as the options say.
func (o *Options) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(*o.texts["log-level"])); err != nil {
		return nil, &podweft.FieldError{Field: "--log-level", Value: *o.texts["log-level"], Problem: "is no level", Remedy: "write debug, info, warn or error"}
	}
	options := &slog.HandlerOptions{Level: level}
	switch *o.texts["log-format"] {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, &podweft.FieldError{Field: "--log-format", Value: *o.texts["log-format"], Problem: "is no format", Remedy: "write text or json"}
}
