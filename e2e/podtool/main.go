// Command podtool is what runs in the pods of the tests of whole nodes: one static program. It serves pages about itself, and does as
// somebody asks who can reach it:
//
//	podtool pause                      a pod's first container
//	podtool serve [:PORT...]           on those besides port 8080, until it is told to end
//	podtool serve -first URL           asks for the URL first of all, for two seconds
//	GET /whoami                        the pod's name, and who asks
//	GET /get?url=http://web/whoami     what the pod gets there
//	GET /first                         how often it has asked for the URL, and how often it got an answer
//	GET /lookup?name=web               what the name is to the pod
//	GET /pings?to=10.244.1.2           begins to send echo requests every 5 ms
//	GET /pings                         ends it, and says how many there were, and how many had no answer
//	GET /spray?to=10.244.0.0/26        begins to send a datagram every 20 ms to each address there; answers after a round
//	GET /spray                         ends it
//	GET /datagrams                     how many datagrams have reached the pod, from before its first program ran
package main

import (
	"context"
	"encoding/json"
	"flag"
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
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	first := flags.String("first", "", "URL to ask for first of all")
	_ = flags.Parse(os.Args[2:])
	s := &server{asked: make(chan struct{})}
	go s.ask(ctx, *first)
	http.HandleFunc("/whoami", s.whoami)
	http.HandleFunc("/get", s.get)
	http.HandleFunc("/first", s.first)
	http.HandleFunc("/lookup", s.lookup)
	http.HandleFunc("/pings", s.pings)
	http.HandleFunc("/spray", s.spray)
	http.HandleFunc("/datagrams", datagrams)
	go func() {
		<-ctx.Done()
		os.Exit(0)
	}()
	ended := make(chan error)
	for _, addr := range append(flags.Args(), ":8080") {
		go func() { ended <- http.ListenAndServe(addr, nil) }() //nolint:gosec // for a test
	}
	fmt.Fprintln(os.Stderr, <-ended)
	os.Exit(1)
}

type server struct {
	mu   sync.Mutex
	now  *flow // nil when none is sent
	rain *rain // nil when none is sent

	asked          chan struct{} // closed when it has asked for the first URL
	tries, answers int
}

// ask asks for the URL, again and again, from the moment that the pod runs.
func (s *server) ask(ctx context.Context, url string) {
	defer close(s.asked)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for url != "" && ctx.Err() == nil {
		s.tries++
		try, end := context.WithTimeout(ctx, 100*time.Millisecond)
		if request, err := http.NewRequestWithContext(try, http.MethodGet, url, nil); err == nil {
			if answer, err := http.DefaultClient.Do(request); err == nil {
				_ = answer.Body.Close()
				s.answers++
			}
		}
		end()
	}
}

func (s *server) first(w http.ResponseWriter, _ *http.Request) {
	<-s.asked
	_ = json.NewEncoder(w).Encode(map[string]int{"tries": s.tries, "answers": s.answers})
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
