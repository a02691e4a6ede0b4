package calico

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
)

// electing is how long members of an etcd wait for each other.
const electing = time.Minute

// serve runs the etcd of the options until ctx ends.
func (o *Options) serve(ctx context.Context) error {
	o.Config.Logger.InfoContext(ctx, "starting etcd", "url", o.server.Client, "cluster", o.server.Cluster)
	for _, url := range o.server.Open() {
		o.Config.Logger.WarnContext(ctx, "etcd is open to everybody who reaches it there: give it certificates and write https", "url", url)
	}
	patient, cancel := context.WithTimeout(ctx, electing)
	defer cancel()
	server, err := embedded.Start(patient, o.server)
	if ctx.Err() != nil {
		if err == nil {
			server.Stop()
		}
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

// serveAlone is the command etcd: for a machine that is to have no pods.
func (o *Options) serveAlone(ctx context.Context, _ io.Writer) error {
	if o.server.Client == "" {
		return &podweft.FieldError{Field: "--etcd-listen", Problem: "is missing", Remedy: "give the URL that nodes reach etcd at"}
	}
	return o.serve(ctx)
}
