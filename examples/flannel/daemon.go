package flannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/adopt"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
)

// Run is the daemon: it takes part in the network until ctx ends, and then returns nil and leaves the network as it is, so that
// pods keep talking. Any other end is an error, in one sentence.
func Run(ctx context.Context, o *Options) error {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o.tellIdle(ctx, log)
	err := o.together(ctx, log)
	if ctx.Err() != nil {
		return nil // what was cut short has failed, each in its own words
	}
	return err
}

// together runs what a daemon consists of until one of them ends.
func (o *Options) together(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if o.Server.Client != "" {
		server, err := o.serve(ctx, log)
		if err != nil {
			return err
		}
		defer server.Stop()
		group.Go(func() error {
			select {
			case err := <-server.Failed():
				return fmt.Errorf("embedded etcd: %w", err)
			case <-ctx.Done():
				return nil
			}
		})
	}
	var h health
	if o.Healthz != "" {
		if err := h.listen(ctx, group, o.Healthz); err != nil {
			cancel()
			return errors.Join(err, group.Wait())
		}
	}
	group.Go(func() error {
		o.servePlugins(ctx, log)
		return nil
	})
	group.Go(func() error {
		defer cancel()
		return o.run(ctx, log, &h)
	})
	return group.Wait()
}

// serveAlone runs etcd until ctx ends: on a node that is to have no pods.
func (o *Options) serveAlone(ctx context.Context) error {
	if o.Server.Client == "" {
		return &podweft.FieldError{Field: "--etcd-listen", Problem: "is missing", Remedy: "give the URL that nodes reach etcd at"}
	}
	server, err := o.serve(ctx, o.Logger)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer server.Stop()
	select {
	case err := <-server.Failed():
		return fmt.Errorf("embedded etcd: %w", err)
	case <-ctx.Done():
		return nil
	}
}

func (o *Options) serve(ctx context.Context, log *slog.Logger) (*embedded.Server, error) {
	log.Info("starting etcd", "url", o.Server.Client, "cluster", o.Server.Cluster)
	for _, url := range o.Server.Open() {
		log.Warn("etcd is open to everybody who reaches it there: give it certificates and write https", "url", url)
	}
	ctx, cancel := context.WithTimeout(ctx, o.StoreWait)
	defer cancel()
	return embedded.Start(ctx, o.Server)
}

// run is the node's part.
func (o *Options) run(ctx context.Context, log *slog.Logger, h *health) error {
	store, err := o.open(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	begun, err := begin(ctx, store, o.StoreWait)
	if err != nil {
		return err
	}
	defer begun.close()
	back, err := newBackend(begun.first.Network.Backend.Type, place{o.Owner, o.NetNS, log})
	if err != nil {
		return err
	}
	defer back.Close()
	if err := o.chooseUnderlay(ctx); err != nil {
		return fmt.Errorf("underlay: %w", err)
	}
	n, err := node.New(node.Config{
		Name: o.NodeName, Underlay: o.Underlay, Store: begun, Backend: back, Masquerade: o.IPMasq, Forward: o.Forward,
		Owner: o.Owner, NetNS: o.NetNS, StateFile: o.StateFile, Logger: log,
	})
	if err != nil {
		return err
	}
	h.watch(n)
	takeover, err := o.takeOver(ctx, log, begun.first)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.Run(ctx) })
	group.Go(func() error {
		defer takeover.close()
		if err := o.announce(ctx, log, n); err != nil {
			return err
		}
		takeover.finish(ctx, log)
		return o.tellAvailable(ctx, log, store)
	})
	return o.unannounced(group.Wait())
}

// takeover is what flanneld has left on the node, on its way to being ours.
type takeover struct {
	flannel *adopt.Flannel // nil where nothing is to be taken over
	snap    *subnet.Snapshot
}

// takeOver makes what is needed before the node runs ours.
func (o *Options) takeOver(ctx context.Context, log *slog.Logger, snap *subnet.Snapshot) (takeover, error) {
	if !o.Adopt {
		return takeover{}, nil
	}
	f, err := adopt.NewFlannel(adopt.Config{Owner: o.Owner, NetNS: o.NetNS, Logger: log})
	if err != nil {
		return takeover{}, err
	}
	done, err := f.Begin(ctx, snap)
	if err != nil {
		return takeover{}, errors.Join(fmt.Errorf("take over from flannel: %w", err), f.Close())
	}
	if len(done) > 0 {
		log.InfoContext(ctx, "taking over from flannel", "links and routes", len(done))
	}
	return takeover{f, snap}, nil
}

// finish removes the rest, once the node is ready. What cannot go yet, the next start of the daemon takes.
func (t takeover) finish(ctx context.Context, log *slog.Logger) {
	if t.flannel == nil || ctx.Err() != nil {
		return
	}
	done, err := t.flannel.Finish(ctx, t.snap)
	switch {
	case err != nil:
		log.WarnContext(ctx, "something of flannel is left", "err", err)
	case len(done) > 0:
		log.InfoContext(ctx, "flannel's routes and rules are removed", "objects", len(done))
	}
}

func (t takeover) close() {
	if t.flannel != nil {
		_ = t.flannel.Close()
	}
}

// unannounced takes the subnet file away if err says that the subnet is another node's: a CNI plugin that went on reading there would
// give pods that node's addresses. Without the file it has the runtime try again.
func (o *Options) unannounced(err error) error {
	if !errors.Is(err, subnet.ErrLeaseLost) {
		return err
	}
	if gone := os.Remove(o.SubnetFile); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		return errors.Join(err, gone)
	}
	return err
}

// announce writes the subnet file when pods can be started: every peer known then is programmed.
func (o *Options) announce(ctx context.Context, log *slog.Logger, n *node.Node) error {
	pods, err := n.Pods(ctx)
	if err != nil {
		return nil // ctx has ended
	}
	s := n.Status()
	if err := replaceFile(o.SubnetFile, subnetFile(s.Network, pods.Prefixes, pods.MTU, o.IPMasq)); err != nil {
		return fmt.Errorf("subnet file: %w", err)
	}
	if err := o.cni.configure(); err != nil {
		return err
	}
	log.InfoContext(ctx, "ready", "subnet", pods.Prefixes, "mtu", pods.MTU, "peers", s.Peers, "failing", len(s.Backend.Failing))
	if o.settled != nil {
		o.settled()
	}
	return nil
}
