package kube

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// DefaultTimeout is that of [Config].
const DefaultTimeout = 15 * time.Second

// Config says which cluster's nodes a [Store] reads, and how. Only Client is required.
type Config struct {
	Client      *rest.Config    // how the API server is reached: rest.InClusterConfig, or clientcmd of a kubeconfig
	Network     *subnet.Network // the cluster's net-conf.json, for good; nil: there is none, which is subnet.ErrNoNetwork
	Annotations Annotations     // which annotations are ours; the zero value is flannel's
	Timeout     time.Duration   // of one request; zero: DefaultTimeout
	Logger      *slog.Logger    // hears of an API server that is lost, and found; nil: silent
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c Config) Validate() error {
	errs := reachable(c.Client, c.Timeout)
	if c.Network != nil {
		errs = append(errs, c.Network.Validate())
	}
	return errors.Join(append(errs, c.Annotations.Validate())...)
}

func reachable(client *rest.Config, timeout time.Duration) (errs []error) {
	if client == nil {
		errs = append(errs, &podweft.FieldError{Field: "Client", Problem: "is missing", Remedy: "say how the API server is reached"})
	}
	if timeout < 0 {
		errs = append(errs, &podweft.FieldError{Field: "Timeout", Value: timeout, Problem: "is negative", Remedy: "leave it zero for fifteen seconds"})
	}
	return errs
}

func (c Config) filled() Config {
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// dial makes the client; it connects when it is first used.
func (c Config) dial() (rest.Interface, *http.Client, error) {
	cfg := settled(c.Client)
	web, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("API server: %w", err)
	}
	client, err := clientOf(cfg, web, corev1.SchemeGroupVersion, corev1.AddToScheme)
	return client, web, err
}

// settled is how the API server is reached, with what a daemon on each node of a cluster needs.
func settled(client *rest.Config) *rest.Config {
	cfg := rest.CopyConfig(client)
	cfg.WarningHandler = rest.NoWarnings{} // it would write to stderr
	if cfg.Dial == nil && cfg.Transport == nil {
		// By default it waits half a minute for a machine that is off, and misses that the machine is back.
		cfg.Dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}).DialContext
	}
	return cfg
}

// clientOf makes a client of one group, whose types add names. It knows no others: the usual clientset's scheme, with the types of
// all of Kubernetes, would be most of a node daemon's memory. Groups of Kubernetes itself speak protobuf, and others do not.
func clientOf(cfg *rest.Config, web *http.Client, group schema.GroupVersion, add func(*runtime.Scheme) error) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath, cfg.GroupVersion = "/apis", &group
	if group.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	if custom := group == clusterPolicies || group == blockVersion; !custom {
		cfg.ContentType = runtime.ContentTypeProtobuf
		cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	client, err := rest.RESTClientForConfigAndClient(cfg, web)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	return client, nil
}
