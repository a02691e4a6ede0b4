package calico

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/roster"
)

// cluster is Kubernetes as the store: of blocks, of nodes and of policies.
type cluster struct {
	nodes      *kube.Roster
	internalIP bool // the node's address is the one that the cluster calls it by
}

// Where the Lease of those that collect blocks is, unless the pod is elsewhere.
const (
	electionNamespace = "kube-system"
	electionName      = "podweft-calico"
)

// openCluster opens the stores in Kubernetes.
func (o *Options) openCluster(r *reader) error {
	client, err := clusterConfig(r.text("kube-api-url"), r.text("kubeconfig"))
	if err != nil {
		return err
	}
	c := &o.Config
	blocks, err := kube.NewBlockStore(kube.BlockConfig{Client: client})
	if err != nil {
		return err
	}
	o.closers = append(o.closers, blocks)
	nodes, err := kube.NewRoster(kube.RosterConfig{Client: client})
	if err != nil {
		return errors.Join(err, o.Close())
	}
	o.closers = append(o.closers, nodes)
	election, err := kube.NewElection(kube.ElectionConfig{Client: client, Namespace: podNamespace(), Name: electionName, Candidate: c.Node})
	if err != nil {
		return errors.Join(err, o.Close())
	}
	o.closers = append(o.closers, election)
	if c.Policies == nil {
		policies, err := kube.NewPolicies(kube.PoliciesConfig{Client: client})
		if err != nil {
			return errors.Join(err, o.Close())
		}
		o.closers = append(o.closers, policies)
		c.Policies = policies
	}
	c.Blocks, c.Nodes, c.Dead, c.Lead = blocks, nodes, roster.Gone(nodes), election.Lead
	method, _, _ := strings.Cut(r.text("ip-autodetection"), "=")
	o.cluster = &cluster{nodes: nodes, internalIP: method == "kubernetes-internal-ip"}
	return nil
}

// podNamespace is that of the pod whose service account is used.
func podNamespace() string {
	text, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if name := strings.TrimSpace(string(text)); err == nil && name != "" {
		return name
	}
	return electionNamespace
}

// clusterConfig is how the API server is reached.
func clusterConfig(url, file string) (*rest.Config, error) {
	if url == "" && file == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("this is no pod of a cluster, and neither --kubeconfig nor --kube-api-url says where one is: %w", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: file},
		&clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: url}},
	).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return cfg, nil
}

// tellAvailable says in the Node's status that pods can be started, as soon as they can: a cloud's nodes take none before.
func (o *Options) tellAvailable(ctx context.Context, agent *Agent) error {
	select {
	case <-ctx.Done():
		return nil
	case <-agent.Ready():
	}
	err := agent.insist(ctx, "the API server to hear that pods can be started", func() error {
		ctx, cancel := context.WithTimeout(ctx, asking)
		defer cancel()
		return o.cluster.nodes.SetNetworkAvailable(ctx, o.Config.Node, "PodweftIsUp", "podweft-calico is running on this node")
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// settle asks the cluster what it knows of this node: its labels, which pools and peers select it by, what it is in BGP, and its address. It
// waits for the API server. Where nothing is in Kubernetes there is nobody to ask.
func (o *Options) settle(ctx context.Context) error {
	if o.cluster == nil {
		return nil
	}
	var n *corev1.Node
	err := (&Agent{cfg: o.Config, log: o.Config.Logger}).insist(ctx, "the cluster to know this node", func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, asking)
		defer cancel()
		n, err = o.cluster.nodes.Node(ctx, o.Config.Node)
		return err
	})
	if err != nil {
		return err
	}
	if o.inCluster, err = saidOf(n); err != nil {
		return err
	}
	if o.cluster.internalIP {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				o.Config.Underlay = node.Choice{Name: addr.String()}
				break
			}
		}
	}
	return o.load() // peers are chosen by labels
}
