package archtest

import "slices"

const module = "github.com/podweft/podweft"

// A room is a package of the house, named by its directory.
type room struct {
	// may lists the packages of the house that it may import: directories, "internal/..." for all below one, or public
	// for every package that is not internal.
	may []string
	// brings lists the modules that it may bring into a program, itself and through what it imports. It is not looked
	// at in nested modules, whose dependencies are theirs alone.
	brings []string
}

const (
	root     = "."
	internal = "internal/..."
	public   = "public"
)

var (
	namespaces = []string{
		"github.com/vishvananda/netns",
		"golang.org/x/sys",
	}
	rtnetlink = slices.Concat(namespaces, []string{
		"github.com/mdlayher/netlink",
		"github.com/mdlayher/socket",
		"github.com/vishvananda/netlink",
		"golang.org/x/net",
		"golang.org/x/sync",
	})
	nftables = slices.Concat(rtnetlink, []string{
		"github.com/google/nftables",
	})
)

var etcdClient = []string{
	"github.com/coreos/go-semver",
	"github.com/coreos/go-systemd/v22",
	"github.com/gogo/protobuf",
	"github.com/golang/protobuf",
	"github.com/grpc-ecosystem/grpc-gateway/v2",
	"go.etcd.io/etcd/api/v3",
	"go.etcd.io/etcd/client/pkg/v3",
	"go.etcd.io/etcd/client/v3",
	"go.uber.org/multierr",
	"go.uber.org/zap",
	"golang.org/x/net",
	"golang.org/x/sys",
	"golang.org/x/text",
	"google.golang.org/genproto/googleapis/api",
	"google.golang.org/genproto/googleapis/rpc",
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
}

// A house is a module's packages and its rules. Keys and values name packages by their directory; a key that ends in "/..."
// speaks for a tree of packages.
type house struct {
	rooms map[string]room
	// importers are the only packages that may import a heavy module, so that one place turns its types into ours.
	importers map[string][]string
	// users are the only packages that may use a name, whichever package it is from.
	users map[string][]string
}

// ours is this module. Arrows point downwards only: the vocabulary knows nobody, subnet and ipam know nothing of the kernel,
// no driver knows another, and node gets its driver through an interface.
var ours = house{
	rooms: map[string]room{
		root: {},

		"subnet":                 {may: []string{root}},
		"subnet/memory":          {may: []string{root, "subnet", "subnet/internal/..."}},
		"subnet/file":            {may: []string{root, "subnet", "subnet/internal/...", "internal/dirwatch", "internal/flock"}, brings: []string{"golang.org/x/sys"}},
		"subnet/etcd":            {may: []string{root, "subnet", "subnet/internal/...", "internal/etcdconn"}, brings: etcdClient},
		"subnet/storetest":       {may: []string{root, "subnet"}},
		"subnet/internal/ledger": {may: []string{root, "subnet"}},

		"ipam": {may: []string{root, "internal/flock"}, brings: []string{"golang.org/x/sys"}},

		"ipam/block":                {may: []string{root, "ipam"}, brings: []string{"golang.org/x/sys"}},
		"ipam/block/memory":         {may: []string{root, "ipam/block", "ipam/block/internal/..."}, brings: []string{"golang.org/x/sys"}},
		"ipam/block/file":           {may: []string{root, "ipam/block", "ipam/block/internal/...", "internal/dirwatch", "internal/flock"}, brings: []string{"golang.org/x/sys"}},
		"ipam/block/etcd":           {may: []string{root, "ipam/block", "internal/etcdconn"}, brings: etcdClient},
		"ipam/block/blocktest":      {may: []string{root, "ipam/block"}, brings: []string{"golang.org/x/sys"}},
		"ipam/block/internal/table": {may: []string{root, "ipam/block"}, brings: []string{"golang.org/x/sys"}},

		"roster":                {may: []string{root, "subnet"}},
		"roster/memory":         {may: []string{root, "roster", "roster/internal/..."}},
		"roster/file":           {may: []string{root, "roster", "roster/internal/...", "internal/dirwatch", "internal/flock"}, brings: []string{"golang.org/x/sys"}},
		"roster/etcd":           {may: []string{root, "roster", "roster/internal/...", "internal/etcdconn"}, brings: etcdClient},
		"roster/rostertest":     {may: []string{root, "roster", "subnet"}},
		"roster/internal/table": {may: []string{root, "roster"}},

		"policy":                   {may: []string{root}},
		"policy/internal/scenario": {may: []string{root, "policy"}},
		"policy/internal/enforce":  {may: []string{root, "policy"}},
		"policy/internal/bridges":  {may: []string{root, internal}, brings: nftables},
		"policy/internal/world":    {may: []string{root, "policy", "policy/internal/scenario", "testnet", internal}, brings: nftables},
		"policy/gate":              {may: []string{root, "policy", "node/local", internal}, brings: []string{"golang.org/x/sys"}},
		"policy/nftables":          {may: []string{root, "policy", "policy/internal/bridges", "policy/internal/enforce", internal}, brings: nftables},
		"policy/iptables":          {may: []string{root, "policy", "policy/internal/bridges", "policy/internal/enforce", internal}, brings: nftables},

		"vxlan":  {may: []string{root, "subnet", internal}, brings: rtnetlink},
		"hostgw": {may: []string{root, "subnet", internal}, brings: rtnetlink},
		"ipip":   {may: []string{root, "subnet", internal}, brings: rtnetlink},
		"udp":    {may: []string{root, "subnet", internal}, brings: slices.Concat(rtnetlink, []string{"github.com/gaissmai/bart"})},
		"bridge": {may: []string{root, "subnet", internal}, brings: rtnetlink},
		"ptp":    {may: []string{root, internal}, brings: rtnetlink},
		"nat":    {may: []string{root, "subnet", internal}, brings: nftables},

		"node/local": {may: []string{root, "internal/dirwatch", "internal/word"}, brings: []string{"golang.org/x/sys"}},
		"adopt":      {may: []string{root, "subnet", internal}, brings: nftables},
		"forward":    {may: []string{root, internal}, brings: nftables},
		"node":       {may: []string{root, "subnet", "forward", "nat", internal}, brings: nftables},
		"testnet":    {may: []string{root, internal}, brings: rtnetlink},
		"cnitest": {
			may:    []string{root, "testnet", internal},
			brings: slices.Concat(rtnetlink, []string{"github.com/containernetworking/cni"}),
		},
		"cnitest/...": {
			may:    []string{root, "cnitest", "testnet", internal},
			brings: slices.Concat(rtnetlink, []string{"github.com/containernetworking/cni"}),
		},
		"cniplugin": {
			may:    []string{root, "bridge", "ptp", "ipam", "ipam/block", "nat", "node/local", internal},
			brings: slices.Concat(nftables, []string{"github.com/containernetworking/cni"}),
		},

		"internal/archtest":  {},
		"internal/cable":     {may: []string{root, internal}, brings: rtnetlink},
		"internal/delta":     {may: []string{root, internal}},
		"internal/dirwatch":  {brings: []string{"golang.org/x/sys"}},
		"internal/etcdconn":  {may: []string{root}, brings: etcdClient},
		"internal/fib":       {may: []string{root, internal}, brings: rtnetlink},
		"internal/links":     {may: []string{root, internal}, brings: rtnetlink},
		"internal/flock":     {brings: []string{"golang.org/x/sys"}},
		"internal/netns":     {may: []string{root, internal}, brings: namespaces},
		"internal/nft":       {may: []string{root, internal}, brings: nftables},
		"internal/nlsock":    {may: []string{root, internal}, brings: namespaces},
		"internal/nl":        {may: []string{root, internal}, brings: rtnetlink},
		"internal/peers":     {may: []string{root, internal}, brings: rtnetlink},
		"internal/recompile": {may: []string{root, "subnet"}},
		"internal/sabotage":  {may: []string{root, "testnet", internal}, brings: rtnetlink},
		"internal/xtables":   {may: []string{root, internal}, brings: namespaces},
		"internal/sysctl":    {may: []string{root, internal}, brings: namespaces},
		"internal/word":      {},

		// Readers learn the SDK from the examples: what these need must be public. (Go itself would let them import internal
		// packages, since their path lies below ours.)
		"examples/...": {may: []string{public}},
		// Whole clusters of real programs, for tests.
		"e2e/...": {may: []string{public, "kube"}},
		// Objects of Kubernetes turned into ours.
		"kube/...": {may: []string{root, "subnet", "ipam/block", "policy", "roster"}},
		// Routes by BGP: what was learned is a snapshot to drivers, and drivers know nothing of it.
		"bgp/...": {may: []string{root, "subnet", "internal/delta"}},
	},
	importers: map[string][]string{
		"github.com/gaissmai/bart":               {"udp"},
		"github.com/containernetworking/cni":     {"cniplugin", "cnitest"},
		"github.com/containernetworking/plugins": nil,
		"github.com/google/nftables":             {"internal/nft", "forward", "nat", "policy/internal/bridges", "policy/nftables"},
		"go.etcd.io/etcd/client/v3":              {"internal/etcdconn", "subnet/etcd", "ipam/block/etcd", "roster/etcd", "examples/flannel", "examples/flannel/embedded"}, // there, tests play the operator
		"google.golang.org/grpc":                 {"internal/etcdconn", "examples/flannel/embedded"},
		// The lab asks the kernel with it, not us, which way a packet goes.
		"github.com/vishvananda/netlink": {"internal/nl", "internal/sabotage", "testnet", "policy/internal/world", "examples/lab"},
		"github.com/vishvananda/netns":   {"internal/netns"},
	},
	users: map[string][]string{
		// A thread that has entered a namespace must come home before it goes back to the scheduler, and only internal/netns sees to that.
		"Setns":        {"internal/netns"},
		"SYS_SETNS":    {"internal/netns"},
		"Unshare":      {"internal/netns"},
		"SYS_UNSHARE":  {"internal/netns"},
		"Unshareflags": {"internal/netns"},
		// A process that is born in new namespaces takes no thread of ours there.
		"Cloneflags": {"testnet"},
		// vishvananda/netlink's way into a namespace, which says nothing when it cannot bring the thread home.
		"NewHandleAt": nil,
	},
}
