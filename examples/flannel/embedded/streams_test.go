package embedded

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// stoppingWatch answers what it is asked once it is told to stop, as etcd does now and then.
type stoppingWatch struct {
	etcdserverpb.UnimplementedWatchServer
	asked chan struct{}
}

func (w stoppingWatch) Watch(s etcdserverpb.Watch_WatchServer) error {
	close(w.asked)
	<-s.Context().Done()
	return s.Send(&etcdserverpb.WatchResponse{Created: true, Canceled: true, CancelReason: "mvcc: watcher range is empty"})
}

// What etcd says to a client when it is stopping is no answer to what the client has asked.
func TestStoppingServerAnswersNothing(t *testing.T) {
	open := newStreams()
	server := grpc.NewServer(open.option())
	w := stoppingWatch{asked: make(chan struct{})}
	etcdserverpb.RegisterWatchServer(server, w)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	watch, err := etcdserverpb.NewWatchClient(client).Watch(t.Context())
	require.NoError(t, err)
	<-w.asked
	open.end()
	answer, err := watch.Recv()
	assert.ErrorContains(t, err, "etcd is stopping", "%v", answer)
	require.NoError(t, client.Close())
	server.Stop()
	require.NoError(t, <-served)
}
