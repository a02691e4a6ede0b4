package calico

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/podweft/podweft/bgp"
)

// socket is where an agent says how it is doing, to those who may read it.
func (c Config) socket() string {
	c = c.withDefaults()
	return filepath.Join(c.StateDir, "calico-"+c.Network+".sock")
}

// Serve answers until ctx ends: /status as JSON, /healthz, /readyz and /metrics, on a unix socket in the state's directory that is
// for this user alone, and at addr if that is not empty.
func (a *Agent) Serve(ctx context.Context, addr string) error {
	listeners, err := a.listeners(ctx, addr)
	if err != nil {
		return err
	}
	return a.serve(ctx, listeners)
}

// listeners are where Serve answers. Their error is one that no other agent of this network on the node has noticed anything of.
func (a *Agent) listeners(ctx context.Context, addr string) ([]net.Listener, error) {
	if err := os.MkdirAll(a.cfg.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	path := a.cfg.socket()
	if other, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		other.Close()
		return nil, fmt.Errorf("status: %s: another agent of this network is running here", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("status: %w", err)
	}
	own, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	all := []net.Listener{own}
	if addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("health endpoints: %w", err), own.Close())
		}
		all = append(all, l)
	}
	return all, nil
}

// serve answers at listeners until ctx ends, and closes them.
func (a *Agent) serve(ctx context.Context, listeners []net.Listener) error {
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- server.Serve(l) }()
	}
	var errs []error
	for range listeners {
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
			server.Close()
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{a})
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "podweft-calico is running") })
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(a.Status(r.Context()))
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		s := a.Status(r.Context())
		if !s.Ready {
			http.Error(w, "not ready: "+orElse(s.Problem, "the kernel is being programmed"), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, "ready: %d blocks, %d routes to others, %d objects failing\n", len(s.Blocks), len(s.Routes), s.Failing())
	})
	return mux
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// The metrics. Each is read from the agent's status when somebody asks.
var metrics = []struct {
	desc *prometheus.Desc
	of   func(Status) float64
	kind prometheus.ValueType
}{
	{describeMetric("ready", "1 when pods can be attached to the node."), func(s Status) float64 { return count(s.Ready) }, prometheus.GaugeValue},
	{describeMetric("blocks", "Blocks that the node has claimed."), func(s Status) float64 { return float64(len(s.Blocks)) }, prometheus.GaugeValue},
	{describeMetric("addresses_held", "Addresses of the node's blocks that somebody holds."), func(s Status) (n float64) {
		for _, b := range s.Blocks {
			n += float64(b.Used)
		}
		return n
	}, prometheus.GaugeValue},
	{describeMetric("routes", "Prefixes of others that were learned."), func(s Status) float64 { return float64(len(s.Routes)) }, prometheus.GaugeValue},
	{describeMetric("routes_unused", "Prefixes of others that were learned and cannot be used."), func(s Status) (n float64) {
		for _, r := range s.Routes {
			n += count(r.Way == string(noWay))
		}
		return n
	}, prometheus.GaugeValue},
	{describeMetric("bgp_peers", "Speakers that this one has, or wants, a session with."), func(s Status) float64 { return float64(len(s.bgp().Peers)) }, prometheus.GaugeValue},
	{describeMetric("bgp_sessions", "BGP sessions that are up."), func(s Status) float64 { return float64(s.bgp().Established) }, prometheus.GaugeValue},
	{describeMetric("objects_failing", "Objects of the kernel that could not be made."), func(s Status) float64 { return float64(s.Failing()) }, prometheus.GaugeValue},
	{describeMetric("passes_total", "How often the kernel was compared with what should be there."), func(s Status) (n float64) {
		for _, p := range s.Parts {
			n += float64(p.Passes)
		}
		return n
	}, prometheus.CounterValue},
	{describeMetric("repairs_total", "Objects that were right, were changed by somebody else and were put right again."), func(s Status) (n float64) {
		for _, p := range s.Parts {
			n += float64(p.Drift)
		}
		return n
	}, prometheus.CounterValue},
	{describeMetric("pod_mtu_bytes", "MTU of pods."), func(s Status) float64 { return float64(s.MTU) }, prometheus.GaugeValue},
	{describeMetric("leftovers", "What other pod networks have left on the node."), func(s Status) float64 { return float64(len(s.Leftovers)) }, prometheus.GaugeValue},
}

func count(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// bgp is the speaker's part, which is all zero where none speaks.
func (s Status) bgp() BGPStatus {
	if s.BGP == nil {
		return BGPStatus{}
	}
	return *s.BGP
}

// Of each speaker.
var (
	peerUp    = describeMetric("bgp_peer_up", "1 when the session with the speaker is up.", "peer", "name")
	peerPaths = describeMetric("bgp_peer_paths", "Paths that the speaker offers.", "peer", "name")
)

func describeMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("podweft_calico_"+name, help, labels, nil)
}

type collector struct{ agent *Agent }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range metrics {
		to <- m.desc
	}
	to <- peerUp
	to <- peerPaths
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.agent.Status(context.Background())
	for _, m := range metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(s))
	}
	for _, p := range s.bgp().Peers {
		to <- prometheus.MustNewConstMetric(peerUp, prometheus.GaugeValue, count(p.State == bgp.Established), p.Addr.String(), p.Name)
		to <- prometheus.MustNewConstMetric(peerPaths, prometheus.GaugeValue, float64(p.Received), p.Addr.String(), p.Name)
	}
}

// ask gets the status of the agent that runs on this node.
func (c Config) ask(ctx context.Context) (s Status, err error) {
	path := c.socket()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status", nil)
	if err != nil {
		return s, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return s, fmt.Errorf("no agent answers at %s: is it running? %w", path, err)
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}
