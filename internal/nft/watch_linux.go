package nft

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

const watchName = podweft.Named("nf_tables notifications")

// Watch calls changed once when it has begun to listen, and then whenever somebody other than this Conn has changed
// something in table t, or when notifications were lost. It returns nil when ctx ends and os.ErrClosed when the Conn is
// closed. changed must not block.
func (c *Conn) Watch(ctx context.Context, t Table, changed func()) error {
	return c.WatchAll(ctx, []Table{t}, changed)
}

// WatchAll is Watch for several tables.
func (c *Conn) WatchAll(ctx context.Context, tables []Table, changed func()) error {
	sock, err := c.subscribe()
	if err != nil {
		return err
	}
	defer c.unsubscribe(sock)
	raw, err := sock.SyscallConn()
	if err != nil {
		return opError("watch", watchName, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	changed()
	buf := make([]byte, readSize)
	for {
		n := 0
		rerr := raw.Read(func(fd uintptr) bool {
			n, err = recv(int(fd), buf)
			return err != unix.EAGAIN
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case rerr != nil:
			return opError("watch", watchName, c.closedOr(rerr))
		case err == unix.ENOBUFS:
			changed()
		case err != nil:
			return opError("watch", watchName, os.NewSyscallError("recvfrom", err))
		case concerns(buf[:n], tables, c.port):
			changed()
		}
	}
}

// subscribe opens a socket that Close of c closes too.
func (c *Conn) subscribe() (*netlink.Conn, error) {
	sock, err := dial(c.path)
	if err != nil {
		return nil, err
	}
	if err := sock.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, opError("watch", watchName, errors.Join(err, sock.Close()))
	}
	c.watch.Lock()
	defer c.watch.Unlock()
	if c.watchers == nil {
		return nil, opError("watch", watchName, errors.Join(os.ErrClosed, sock.Close()))
	}
	c.watchers[sock] = struct{}{}
	return sock, nil
}

func (c *Conn) unsubscribe(sock *netlink.Conn) {
	c.watch.Lock()
	defer c.watch.Unlock()
	delete(c.watchers, sock)
	_ = sock.Close()
}

// closedOr is os.ErrClosed when that is why reading failed, which Go's poller says in words of its own.
func (c *Conn) closedOr(err error) error {
	c.watch.Lock()
	defer c.watch.Unlock()
	if c.watchers == nil {
		return os.ErrClosed
	}
	return err
}

// concerns reports whether any of the notifications in b is about one of the tables and comes of a transaction that was not sent
// through port. Every kind of nf_tables object has its table's name as attribute 1; the announcement of a new generation,
// which ends each transaction, has a number there and family 0.
func concerns(b []byte, tables []Table, port uint32) bool {
	for r := range replies(b) {
		if r.kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(r.body) < nfgenLen {
			continue
		}
		if r.port != port && slices.Contains(tables, Table{r.family(), str(find(r.attrs(), unix.NFTA_TABLE_NAME))}) {
			return true
		}
	}
	return false
}
