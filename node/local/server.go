package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/podweft/podweft"
)

// Handler is what an agent does when plugins ask. Its methods are called concurrently. Their ctx ends when the plugin dies,
// when it has waited for long enough, and when the server stops; a Handler that returns ctx's error then has told the plugin
// to try again. Other errors: see [ErrTryAgain] and its like.
type Handler interface {
	// Attach returns when everything that concerns the attachment is in force, such as the policies that select its pod.
	Attach(ctx context.Context, rec Record) error
	// Detach forgets attachments, and frees the addresses claimed for them.
	Detach(ctx context.Context, keys []Key) error
	// Claim gives an attachment its addresses: the same whenever it is asked, until Detach.
	Claim(ctx context.Context, c Claim) ([]Address, error)
	// Status says whether pods can be attached.
	Status(ctx context.Context) (Status, error)
}

// ServerConfig says how an agent listens.
type ServerConfig struct {
	// Path of the socket. Required. A directory that is missing is made, for this user alone. An agent that still listens
	// there finishes what it has begun and hears nothing new.
	Path string
	// Handler answers. Required.
	Handler Handler
	// MaxWait is how long a plugin waits at most for one answer. Zero: 10 seconds. A runtime gives a plugin some minutes,
	// and to try again is cheap; so this bounds what one slow attachment costs.
	MaxWait time.Duration
	// Logger hears about plugins that were refused, and each request at Debug. Nil: silent.
	Logger *slog.Logger
}

// writePatience is how long a plugin may take to read an answer.
const writePatience = 5 * time.Second

// Server is an agent's ear. It answers root and its own user only.
type Server struct {
	cfg      ServerConfig
	log      *slog.Logger
	listener *net.UnixListener
	socket   os.FileInfo
}

// Listen makes the socket, in the place of another at the same path. From then on plugins wait for [Server.Run].
func Listen(cfg ServerConfig) (*Server, error) {
	problems := flaws{}
	if cfg.Path == "" {
		problems.add("Path", nil, "is missing")
	}
	if cfg.Handler == nil {
		problems.add("Handler", nil, "is missing")
	}
	if cfg.MaxWait < 0 {
		problems.add("MaxWait", cfg.MaxWait, "is negative")
	}
	if err := problems.join(); err != nil {
		return nil, err
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Logger}
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("listen for plugins: %w", err)
	}
	return s, nil
}

// listen binds a socket to a passing name and gives it its own when it is ready: there is no moment at which plugins find
// nobody because one agent follows another.
func (s *Server) listen() error {
	if err := os.MkdirAll(filepath.Dir(s.cfg.Path), 0o700); err != nil {
		return err
	}
	passing := fmt.Sprintf("%s.%d", s.cfg.Path, os.Getpid())
	if err := os.Remove(passing); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: passing, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	if s.socket, err = os.Stat(passing); err == nil {
		err = os.Chmod(passing, 0o600)
	}
	if err == nil {
		err = os.Rename(passing, s.cfg.Path)
	}
	if err != nil {
		l.Close()
		_ = os.Remove(passing)
		return err
	}
	s.listener = l
	return nil
}

// Close stops listening, without a Run or to end one, and removes the socket unless another agent has taken its place.
// Requests under way go on.
func (s *Server) Close() error {
	if now, err := os.Stat(s.cfg.Path); err == nil && os.SameFile(s.socket, now) {
		_ = os.Remove(s.cfg.Path) // plugins find that nobody listens, by another errno
	}
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run answers plugins until ctx ends; it then tells those that wait to try again, and returns nil. It closes s.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var plugins sync.WaitGroup
	defer plugins.Wait()
	defer s.Close()
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			plugins.Go(func() { s.serve(ctx, conn) })
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default: // out of descriptors, most likely: some will be free again
			s.log.WarnContext(ctx, "plugin not heard", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// heard is a line that came from a plugin, or why none can come.
type heard struct {
	line []byte
	err  error
}

// serve answers one plugin, one request after the other.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		s.log.WarnContext(ctx, "plugin refused", "err", err)
		s.reply(conn, response{}, err)
		return
	}
	// Reading ends when we are to stop, but the answer to the request under way is still written.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	requests := make(chan heard)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(requests)
		defer cancel() // the plugin is gone: nobody waits for an answer
		hear(ctx, lines(conn), requests)
	})
	defer reader.Wait()
	defer conn.Close()
	defer cancel()
	for h := range requests {
		r, err := s.answer(ctx, h)
		if !s.reply(conn, r, err) || h.err != nil {
			return
		}
	}
}

// hear passes lines on until there are no more.
func hear(ctx context.Context, in *bufio.Scanner, requests chan<- heard) {
	for in.Scan() {
		select {
		case requests <- heard{line: bytes.Clone(in.Bytes())}:
		case <-ctx.Done():
			return
		}
	}
	if errors.Is(in.Err(), bufio.ErrTooLong) {
		select {
		case requests <- heard{err: &podweft.FieldError{Field: "request", Problem: "is too long", Remedy: fmt.Sprintf("send at most %d bytes", maxMessage)}}:
		case <-ctx.Done():
		}
	}
}

// answer has the Handler do what a line asks for.
func (s *Server) answer(ctx context.Context, h heard) (r response, err error) {
	if h.err != nil {
		return r, h.err
	}
	q, err := decodeRequest(h.line)
	if err != nil {
		return r, err
	}
	wait := s.cfg.MaxWait
	if asked := time.Duration(q.Wait) * time.Millisecond; 0 < q.Wait && q.Wait < wait.Milliseconds() {
		wait = asked
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	start := time.Now()
	switch q.Verb {
	case verbAttach:
		err = s.cfg.Handler.Attach(ctx, *q.Record)
	case verbDetach:
		err = s.cfg.Handler.Detach(ctx, q.Keys)
	case verbClaim:
		r.Addresses, err = s.cfg.Handler.Claim(ctx, *q.Claim)
	case verbStatus:
		r.Status = new(Status)
		*r.Status, err = s.cfg.Handler.Status(ctx)
	}
	s.log.DebugContext(ctx, "plugin answered", "verb", q.Verb, "took", time.Since(start), "err", err)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("not done after %s: %w", wait, err)
	}
	return r, err
}

// reply sends an answer, and reports whether the plugin can be sent more.
func (s *Server) reply(conn *net.UnixConn, r response, err error) bool {
	r.Version = version
	if err != nil {
		r = response{Version: version, Error: &answer{Code: codeOf(err), Text: err.Error()}}
	}
	line, err := encode(r)
	if err != nil {
		line, _ = encode(response{Version: version, Error: &answer{Code: codeFailed, Text: err.Error()}})
	}
	_ = conn.SetWriteDeadline(time.Now().Add(writePatience))
	_, err = conn.Write(line)
	return err == nil
}
