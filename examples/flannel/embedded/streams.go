package embedded

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streams are what clients keep open for as long as they live: watches, and renewals of leases. etcd ends when they do, and not before
// seven seconds have passed it cuts them off. Here they end when the server is told to.
type streams struct {
	ctx context.Context // of all of them
	end context.CancelFunc
}

func newStreams() streams {
	ctx, end := context.WithCancel(context.Background())
	return streams{ctx, end}
}

// option makes a server keep its streams here.
func (s streams) option() grpc.ServerOption {
	return grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		err := handler(srv, stream{ss, ctx})
		if s.ctx.Err() != nil {
			return errStopping
		}
		return err
	})
}

// errStopping has clients go on where they were, at another member.
var errStopping = status.Error(codes.Unavailable, "etcd is stopping")

// stream is a ServerStream with a context of its own.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements [grpc.ServerStream].
func (s stream) Context() context.Context { return s.ctx }

// SendMsg implements [grpc.ServerStream]. It sends nothing more when the stream is to end: a watch that is asked for then etcd refuses for
// a reason that is not so, "mvcc: watcher range is empty" (watchStream.Watch of one that is closed), and the client gives it up.
func (s stream) SendMsg(m any) error {
	if s.ctx.Err() != nil {
		return errStopping
	}
	return s.ServerStream.SendMsg(m)
}
