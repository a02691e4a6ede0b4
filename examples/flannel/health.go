package flannel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft/node"
)

// health answers /healthz, /readyz and /metrics.
type health struct {
	node atomic.Pointer[node.Node] // nil before there is one
}

func (h *health) watch(n *node.Node) { h.node.Store(n) }

func (h *health) status() node.Status {
	if n := h.node.Load(); n != nil {
		return n.Status()
	}
	return node.Status{}
}

// listen serves at addr until ctx ends.
func (h *health) listen(ctx context.Context, group *errgroup.Group, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("health endpoints: %w", err)
	}
	server := &http.Server{Handler: h.handler(), ReadHeaderTimeout: 5 * time.Second}
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("health endpoints: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return nil
}

func (h *health) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{h})
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "flanneld is running") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := h.status()
		switch {
		case s.Ready:
			_, _ = fmt.Fprintf(w, "ready: %s, %d peers, %d of their objects failing, %d leases left out\n",
				s.Lease.Prefixes, s.Peers, len(s.Backend.Failing), len(s.Problems))
		case s.Lease == nil:
			http.Error(w, "not ready: no subnet yet", http.StatusServiceUnavailable)
		default:
			http.Error(w, "not ready: peers are being programmed", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// The metrics. Each is read from the node's status when somebody asks.
var metrics = []struct {
	desc *prometheus.Desc
	of   func(node.Status) float64
	kind prometheus.ValueType
}{
	{describe("ready", "1 when pods can be started on the node."), func(s node.Status) float64 {
		if s.Ready {
			return 1
		}
		return 0
	}, prometheus.GaugeValue},
	{describe("peers", "Other nodes with a lease."), func(s node.Status) float64 { return float64(s.Peers) }, prometheus.GaugeValue},
	{describe("leases_left_out", "Leases of other nodes that make no sense."), func(s node.Status) float64 { return float64(len(s.Problems)) }, prometheus.GaugeValue},
	{describe("objects_failing", "Objects of the kernel that could not be made."), func(s node.Status) float64 { return float64(len(s.Backend.Failing)) }, prometheus.GaugeValue},
	{describe("in_force", "1 when the kernel has all that follows from the leases known now."), func(s node.Status) float64 {
		if s.Ready && s.Backend.Last.Generation == s.Backend.Generation && s.Backend.Last.Err == nil {
			return 1
		}
		return 0
	}, prometheus.GaugeValue},
	{describe("passes_total", "How often the backend compared the kernel with what should be there."), func(s node.Status) float64 { return float64(s.Backend.Passes) }, prometheus.CounterValue},
	{describe("repairs_total", "Objects that were right, were changed by somebody else and were put right again."), func(s node.Status) float64 { return float64(s.Backend.Drift) }, prometheus.CounterValue},
	{describe("last_pass_seconds", "How long the last comparison took."), func(s node.Status) float64 { return s.Backend.Last.Duration.Seconds() }, prometheus.GaugeValue},
	{describe("pod_mtu_bytes", "MTU of pods."), func(s node.Status) float64 { return float64(s.MTU) }, prometheus.GaugeValue},
}

func describe(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("podweft_"+name, help, nil, nil)
}

type collector struct{ *health }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range metrics {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.status()
	for _, m := range metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(s))
	}
}
