package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/podweft/podweft"
)

// Handler is what an agent does when plugins ask. Its methods are called concurrently. Their ctx ends when the plugin dies,
// when it has waited for long enough, and when the server stops; a Handler that returns ctx's error then has told the plugin
// to try again, or to ask the next agent. Other errors: see [ErrTryAgain] and its like.
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
	// AdmitsAll says that the Handler's Attach has nothing to wait for. The socket's mode tells plugins, which then need not ask: that
	// would take each half a millisecond, of which most goes into finding its words.
	AdmitsAll bool
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
	unlinked sync.Once
}

// Listen makes the socket, in the place of another at the same path. From then on plugins wait for [Server.Run].
func Listen(cfg ServerConfig) (*Server, error) {
	problems := flaws{}
	if cfg.Path == "" {
		problems.add("Path", nil, "is missing")
	}
	if len(cfg.Path) > maxPath {
		problems.add("Path", cfg.Path, fmt.Sprintf("is too long for a socket's name: use at most %d bytes", maxPath))
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

// maxPath leaves room in sun_path, 108 bytes with a closing zero (unix(7)), for the passing name: a dot and a process ID, which is at
// most 2^22 (PID_MAX_LIMIT in include/linux/threads.h).
const maxPath = 108 - 1 - len(".4194304")

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
		err = os.Chmod(passing, s.cfg.mode())
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

// admitsAll is the bit of a socket's mode that says so. To the kernel it means nothing but at directories (inode(7)).
const admitsAll = fs.ModeSticky

func (c ServerConfig) mode() fs.FileMode {
	if c.AdmitsAll {
		return 0o600 | admitsAll
	}
	return 0o600
}

// Close stops listening, without a Run or to end one, and removes the socket unless another agent has taken its place.
// Requests under way go on.
func (s *Server) Close() error {
	s.unlink()
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run answers plugins until ctx ends. It then answers whoever has asked by that time, without a wait: what cannot be done at once is
// called off, and the plugin finds that the agent hung up. It returns nil, and closes s.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.shut)
	defer stop()
	var plugins sync.WaitGroup
	defer plugins.Wait()
	defer s.Close()
	var said time.Time
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			plugins.Go(func() { s.serve(ctx, conn) })
		case errors.Is(err, net.ErrClosed):
			return nil
		case ctx.Err() != nil:
			s.acceptRest(func(conn *net.UnixConn) { plugins.Go(func() { s.serve(ctx, conn) }) })
			return nil
		default: // out of descriptors, most likely: some will be free again
			if time.Since(said) > time.Second { // a log that fills the disk helps nobody
				said = time.Now()
				s.log.WarnContext(ctx, "plugin not heard", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// unlink removes the socket, unless it is another agent's. Plugins find without it too that nobody listens, by another errno.
func (s *Server) unlink() {
	s.unlinked.Do(func() { // once: between a later look and deed the next agent may come
		if now, err := os.Stat(s.cfg.Path); err == nil && os.SameFile(s.socket, now) {
			_ = os.Remove(s.cfg.Path)
		}
	})
}

// shut lets no more plugins connect, and ends the wait for one. Those that have connected are still to be accepted.
func (s *Server) shut() {
	s.unlink()
	shutListener(s.listener)
	_ = s.listener.SetDeadline(time.Unix(1, 0))
}

// acceptRest accepts those who connected before shut.
func (s *Server) acceptRest(serve func(*net.UnixConn)) {
	for {
		conn, err := acceptNow(s.listener)
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err != nil {
			s.log.Warn("plugin not heard", "err", err)
			return
		}
		serve(conn)
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
	// When we are to stop the plugin can send no more; what it has sent is read and answered.
	stop := context.AfterFunc(ctx, func() { _ = conn.CloseRead() })
	defer stop()
	running := ctx
	ctx, cancel := context.WithCancel(ctx)
	requests, over := make(chan heard), make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(requests)
		defer cancel() // the plugin is gone: nobody waits for an answer
		hear(lines(conn), requests, over)
	})
	defer reader.Wait()
	defer conn.Close()
	defer close(over)
	defer cancel()
	for h := range requests {
		r, err := s.answer(ctx, h)
		if err != nil && running.Err() != nil {
			return // it may have failed for that alone: the next agent will know
		}
		if !s.reply(conn, r, err) || h.err != nil {
			return
		}
	}
}

// hear passes lines on until there are no more, or nobody takes them.
func hear(in *bufio.Scanner, requests chan<- heard, over <-chan struct{}) {
	for in.Scan() {
		select {
		case requests <- heard{line: bytes.Clone(in.Bytes())}:
		case <-over:
			return
		}
	}
	if errors.Is(in.Err(), bufio.ErrTooLong) {
		select {
		case requests <- heard{err: &podweft.FieldError{Field: "request", Problem: "is too long", Remedy: fmt.Sprintf("send at most %d bytes", maxMessage)}}:
		case <-over:
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
