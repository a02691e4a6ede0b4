// Command podtool is all that runs in the pods of these tests: one static program, so that an image is one file.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("podtool pause | serve ADDRESS TEXT | get URL")
	}
	switch os.Args[1] {
	case "pause":
		wait := make(chan os.Signal, 1)
		signal.Notify(wait, syscall.SIGTERM, syscall.SIGINT)
		<-wait
	case "serve":
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintf(w, "%s to %s", os.Args[3], host)
		})
		fail(http.ListenAndServe(os.Args[2], handler)) //nolint:gosec // for a test
	case "get":
		client := http.Client{Timeout: 5 * time.Second}
		r, err := client.Get(os.Args[2]) //nolint:noctx // it has a timeout
		if err != nil {
			fail(err)
		}
		_, _ = io.Copy(os.Stdout, r.Body)
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
