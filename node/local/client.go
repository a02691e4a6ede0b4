package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
	"time"
)

// maxKeys is how many attachments one request names, so that it is not too long.
const maxKeys = 2000

// Client is a plugin's way to its node's agent. It keeps nothing open between calls, and is safe for concurrent use.
//
// Any call may return [ErrNoAgent], [ErrTryAgain], [ErrVersion] or [ErrForbidden]; and [ErrHungUp] when the agent is ended meanwhile: to
// ask the next one the same is no mistake.
type Client struct{ path string }

// NewClient returns a Client of the agent that listens, or will, on the socket at path.
func NewClient(path string) *Client { return &Client{path: path} }

// Attach tells the agent of an attachment and returns when what concerns it is in force: traffic may flow. Before that it
// waits, but no longer than the agent likes or ctx allows, and then returns [ErrTryAgain]. To tell the same again is no
// mistake.
func (c *Client) Attach(ctx context.Context, rec Record) error {
	if err := rec.Validate(); err != nil {
		return fmt.Errorf("attach %s: %w", rec.Key(), err)
	}
	if _, err := c.call(ctx, request{Verb: verbAttach, Record: &rec}); err != nil {
		return fmt.Errorf("attach %s: %w", rec.Key(), err)
	}
	return nil
}

// AdmitsAll reports whether the agent has said, when it began to listen, that Attach has nothing to wait for. It asks nobody: the agent may
// be gone since, as it may be after any Attach.
func (c *Client) AdmitsAll() bool {
	socket, err := os.Stat(c.path)
	return err == nil && socket.Mode()&(fs.ModeSocket|admitsAll) == fs.ModeSocket|admitsAll
}

// Detach tells the agent that attachments, any number of them, are gone; addresses claimed for them are free again. What the
// agent does not know is no mistake.
func (c *Client) Detach(ctx context.Context, keys ...Key) error {
	for some := range slices.Chunk(keys, maxKeys) {
		if _, err := c.call(ctx, request{Verb: verbDetach, Keys: some}); err != nil {
			return fmt.Errorf("detach %s: %w", several(some), err)
		}
	}
	return nil
}

// several names the first of many.
func several(keys []Key) string {
	if len(keys) == 1 {
		return keys[0].String()
	}
	return fmt.Sprintf("%s and %d more", keys[0], len(keys)-1)
}

// Claim has the agent give addresses to an attachment: the same ones whenever it is asked, until Detach. [ErrExhausted] says
// that there are none; podweft.ErrInvalid that one asked for by name cannot be given.
func (c *Client) Claim(ctx context.Context, claim Claim) ([]Address, error) {
	r, err := c.call(ctx, request{Verb: verbClaim, Claim: &claim})
	if err != nil {
		return nil, fmt.Errorf("claim addresses for %s: %w", claim.Key, err)
	}
	return r.Addresses, nil
}

// Status asks the agent how it is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.call(ctx, request{Verb: verbStatus})
	if err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	return *r.Status, nil
}

func (c *Client) call(ctx context.Context, r request) (response, error) {
	r.Version = version
	if deadline, ok := ctx.Deadline(); ok {
		// The agent gives up a little earlier than we, so that its reason is heard.
		r.Wait = max(1, (time.Until(deadline) * 9 / 10).Milliseconds())
	}
	line, err := encode(r)
	if err != nil {
		return response{}, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return response{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if line, err = exchange(conn, line); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrTryAgain, context.Cause(ctx))
		}
		return response{}, err
	}
	return decodeResponse(r.Verb, line)
}

func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w", ErrForbidden, err)
	case ctx.Err() != nil, errors.Is(err, syscall.EAGAIN): // a full queue: unix(7)
		return nil, fmt.Errorf("%w: %w", ErrTryAgain, err)
	default:
		return nil, err
	}
	local := conn.(*net.UnixConn)
	if err := checkPeer(local); err != nil {
		conn.Close()
		return nil, fmt.Errorf("agent at %s: %w", c.path, err)
	}
	return local, nil
}

// exchange sends a line and returns the one that comes back.
func exchange(conn net.Conn, line []byte) ([]byte, error) {
	// An agent that refuses us does not listen first: its reason is worth more than that we could not speak.
	_, writeErr := conn.Write(line)
	in := lines(conn)
	if in.Scan() {
		return in.Bytes(), nil
	}
	switch err := cmp.Or(writeErr, in.Err()); {
	case err == nil:
		return nil, ErrHungUp
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET): // before it had read what we wrote
		return nil, fmt.Errorf("%w: %w", ErrHungUp, err)
	default:
		return nil, fmt.Errorf("%w: %w", ErrTryAgain, err)
	}
}
