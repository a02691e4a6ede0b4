// Command podtool is what runs in the pods of the tests of whole nodes: one static program. It serves pages about itself, and does as
// somebody asks who can reach it:
//
//	podtool pause                      a pod's first container
//	podtool serve                      on port 8080, until it is told to end
//	GET /whoami                        the pod's name, and who asks
//	GET /get?url=http://web/whoami     what the pod gets there
//	GET /lookup?name=web               what the name is to the pod
//	GET /pings?to=10.244.1.2           begins to send echo requests every 5 ms
//	GET /pings                         ends it, and says how many there were, and how many had no answer
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		<-ctx.Done()
		return
	}
	s := &server{}
	http.HandleFunc("/whoami", s.whoami)
	http.HandleFunc("/get", s.get)
	http.HandleFunc("/lookup", s.lookup)
	http.HandleFunc("/pings", s.pings)
	go func() {
		<-ctx.Done()
		os.Exit(0)
	}()
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil)) //nolint:gosec // for a test
	os.Exit(1)
}

type server struct {
	mu  sync.Mutex
	now *flow // nil when none is sent
}

func (s *server) whoami(w http.ResponseWriter, r *http.Request) {
	name, _ := os.Hostname()
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "%s to %s", name, from)
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.FormValue("url"), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // each a connection of its own, for Services
	answer, err := client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}

func (s *server) lookup(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(ctx, r.FormValue("name"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_ = json.NewEncoder(w).Encode(found)
}

func (s *server) pings(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := net.ParseIP(r.FormValue("to"))
	switch {
	case to != nil && s.now == nil:
		f, err := begin(to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.now = f
	case to == nil && s.now != nil:
		sent, lost := s.now.end()
		s.now = nil
		_ = json.NewEncoder(w).Encode(map[string]int{"sent": sent, "lost": lost})
	default:
		http.Error(w, "one at a time", http.StatusConflict)
	}
}
