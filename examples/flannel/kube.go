package flannel

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
)

// kubeOptions are those of leases in Kubernetes.
type kubeOptions struct {
	use            bool
	url, file      string // how the API server is reached; neither: as a pod reaches it
	prefix         string // of annotations
	netConf        string // file
	tellsAvailable bool
}

func (k *kubeOptions) flags(f *flag.FlagSet) {
	f.BoolVar(&k.use, "kube-subnet-mgr", false, "keep leases in Kubernetes instead of etcd: each node's is its Node's podCIDRs")
	f.StringVar(&k.url, "kube-api-url", "", "the API server's URL; default: the kubeconfig's, or as a pod reaches it")
	f.StringVar(&k.file, "kubeconfig-file", "", "kubeconfig; default: the pod's service account")
	f.StringVar(&k.prefix, "kube-annotation-prefix", kube.DefaultPrefix, "what the annotations of Nodes begin with")
	f.StringVar(&k.netConf, "net-config-path", "/etc/kube-flannel/net-conf.json", "the network's configuration, where leases are in Kubernetes")
	f.BoolVar(&k.tellsAvailable, "set-node-network-unavailable", true, "set the Node's condition NetworkUnavailable to False when pods can be started")
}

// client is how the API server is reached.
func (k *kubeOptions) client() (*rest.Config, error) {
	if k.url == "" && k.file == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("this is no pod of a cluster, and neither --kubeconfig-file nor --kube-api-url says where one is: %w", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: k.file},
		&clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: k.url}},
	).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig-file: %w", err)
	}
	return cfg, nil
}

func (k *kubeOptions) network() (*subnet.Network, error) {
	text, err := os.ReadFile(k.netConf)
	if err != nil {
		return nil, fmt.Errorf("--net-config-path: %w", err)
	}
	network, err := subnet.ParseNetwork(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.netConf, err)
	}
	return network, nil
}

// openKube opens the store in Kubernetes, and settles what the cluster says about this node: its name, and the address that an
// operator has chosen for it, which counts more than flags that all nodes have. It waits for the API server.
func (o *Options) openKube(ctx context.Context, log *slog.Logger) (*kube.Store, error) {
	client, err := o.kube.client()
	if err != nil {
		return nil, err
	}
	network, err := o.kube.network()
	if err != nil {
		return nil, err
	}
	store, err := kube.New(kube.Config{Client: client, Network: network, Annotations: kube.Annotations{Prefix: o.kube.prefix}, Logger: log})
	if err != nil {
		return nil, err
	}
	if err := o.settle(ctx, store); err != nil {
		_ = store.Close()
		return nil, err
	}
	return store, nil
}

func (o *Options) settle(ctx context.Context, store *kube.Store) error {
	return insist(ctx, o.StoreWait, func() error {
		pod, namespace := os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
		if o.nodeNamed == "" && pod != "" && namespace != "" {
			name, err := store.NodeOf(ctx, namespace, pod)
			if err != nil {
				return err
			}
			o.NodeName, o.nodeNamed = name, name
		}
		chosen, err := store.NodePublicIP(ctx, o.NodeName)
		if err != nil {
			return err
		}
		o.prefer(chosen)
		return nil
	})
}

// insist tries until it works, what it found makes no sense, or the wait is over.
func insist(ctx context.Context, wait time.Duration, try func() error) error {
	for deadline := time.Now().Add(wait); ; {
		err := try()
		if err == nil || errors.Is(err, podweft.ErrInvalid) {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("the API server has not answered within %s: %w", wait, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(250*time.Millisecond, time.Until(deadline))):
		}
	}
}

// given is the subnet that a start would lease, where the store does not choose.
func (o *Options) given(ctx context.Context, s store) (subnet.Prefixes, error) {
	if k, is := s.(*kube.Store); is {
		return k.Given(ctx, o.NodeName)
	}
	return subnet.Prefixes{}, nil
}

// tellAvailable says in the Node's status that pods can be started, as soon as the API server takes it.
func (o *Options) tellAvailable(ctx context.Context, log *slog.Logger, s store) error {
	k, is := s.(*kube.Store)
	if !is || !o.kube.tellsAvailable {
		return nil
	}
	for first := true; ; first = false {
		// What flannel writes: some tools look for it.
		err := k.SetNetworkAvailable(ctx, o.NodeName, "FlannelIsUp", "Flannel is running on this node")
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if first {
			log.WarnContext(ctx, "the node's condition NetworkUnavailable is not set yet", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
