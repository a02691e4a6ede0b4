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
	var errs []error
	if c.Client == nil {
		errs = append(errs, &podweft.FieldError{Field: "Client", Problem: "is missing", Remedy: "say how the API server is reached"})
	}
	if c.Timeout < 0 {
		errs = append(errs, &podweft.FieldError{Field: "Timeout", Value: c.Timeout, Problem: "is negative", Remedy: "leave it zero for fifteen seconds"})
	}
	if c.Network != nil {
		errs = append(errs, c.Network.Validate())
	}
	return errors.Join(append(errs, c.Annotations.Validate())...)
}

func (c Config) filled() Config {
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// dial makes the client; it connects when it is first used. It knows core/v1 and nothing else: the usual clientset's scheme, with
// the types of all of Kubernetes, would be most of a node daemon's memory.
func (c Config) dial() (rest.Interface, *http.Client, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	cfg := rest.CopyConfig(c.Client)
	cfg.APIPath, cfg.GroupVersion = "/api", &corev1.SchemeGroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.WarningHandler = rest.NoWarnings{} // it would write to stderr
	if cfg.Dial == nil && cfg.Transport == nil {
		// By default it waits half a minute for a machine that is off, and misses that the machine is back.
		cfg.Dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}).DialContext
	}
	web, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("API server: %w", err)
	}
	client, err := rest.RESTClientForConfigAndClient(cfg, web)
	if err != nil {
		return nil, nil, fmt.Errorf("API server: %w", err)
	}
	return client, web, nil
}
