// Package embedded runs etcd inside the daemon's process, on one node or on three: a pod network then needs no other store, and
// no Kubernetes. The other nodes' daemons are given these as their endpoints.
//
// What it runs is etcd itself, with its data in a directory of its own. It is not for a cluster that has an etcd already, and it
// makes no backups.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/podweft/podweft"
)

// Config says where the server is and who its peers are. Dir and Client are required.
type Config struct {
	Name   string // of this member; empty: "default"
	Dir    string // of its data
	Client string // URL that clients reach it at: "http://10.0.0.1:2379", or https with ClientTLS
	Peer   string // URL that the other members reach it at; empty: it is alone
	// ClientTLS is what clients see, and with a CA what they have to show; without one any client is served. Empty: plain HTTP.
	ClientTLS TLS
	// PeerTLS is what members show each other, with all its fields. Empty: plain HTTP.
	PeerTLS TLS
	// Cluster is all members, this one too, as "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=..."; empty: it is alone.
	Cluster string
	// Compact is how much history is kept, for watches that were interrupted; zero: an hour.
	Compact time.Duration
}

// Server is an etcd in this process.
type Server struct {
	etcd    *embed.Etcd
	streams streams
	cfg     Config
}

// Start starts the server and waits until it serves or ctx ends. A member of three serves when a second one is there.
// Errors: podweft.ErrInvalid, etcd's, ctx's.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	conf, err := cfg.build()
	if err != nil {
		return nil, err
	}
	open := newStreams()
	conf.GRPCAdditionalServerOptions = append(conf.GRPCAdditionalServerOptions, open.option())
	etcd, err := embed.StartEtcd(conf)
	if err != nil {
		open.end()
		return nil, fmt.Errorf("embedded etcd: %w", err)
	}
	s := &Server{etcd: etcd, streams: open, cfg: cfg}
	select {
	case <-etcd.Server.ReadyNotify():
		return s, nil
	case err = <-etcd.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Stop()
	return nil, fmt.Errorf("embedded etcd does not serve at %s: %w", cfg.Client, err)
}

func (c Config) build() (*embed.Config, error) {
	var errs []error
	address := func(field, text string, tls TLS) url.URL {
		u, err := url.Parse(text)
		bad := &podweft.FieldError{Field: field, Value: fmt.Sprintf("%q", text)}
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			bad.Problem, bad.Remedy = "is not a URL", `write "http://10.0.0.1:2379"`
		case u.Scheme == "https" && tls == (TLS{}):
			bad.Problem, bad.Remedy = "has no certificate to show", "give "+field+"TLS one, or write http"
		case u.Scheme == "http" && tls != (TLS{}): // etcd would serve it, and leave the certificate aside
			bad.Problem, bad.Remedy = "does not show the certificate of "+field+"TLS", "write https"
		default:
			return *u
		}
		errs = append(errs, bad)
		return url.URL{}
	}
	errs = append(errs, c.ClientTLS.check("ClientTLS")...)
	errs = append(errs, c.PeerTLS.check("PeerTLS")...)
	if c.Dir == "" {
		errs = append(errs, &podweft.FieldError{Field: "Dir", Problem: "is missing", Remedy: "name a directory for etcd's data"})
	}
	conf := embed.NewConfig()
	conf.Dir, conf.Name = c.Dir, cmp.Or(c.Name, "default")
	conf.ListenClientUrls = []url.URL{address("Client", c.Client, c.ClientTLS)}
	conf.AdvertiseClientUrls = conf.ListenClientUrls
	peer := cmp.Or(c.Peer, "http://127.0.0.1:0") // nobody connects to it
	conf.ListenPeerUrls = []url.URL{address("Peer", peer, c.PeerTLS)}
	conf.AdvertisePeerUrls = conf.ListenPeerUrls
	conf.ClientTLSInfo.TrustedCAFile, conf.ClientTLSInfo.ClientCertAuth = c.ClientTLS.CA, c.ClientTLS.CA != ""
	conf.ClientTLSInfo.CertFile, conf.ClientTLSInfo.KeyFile = c.ClientTLS.Cert, c.ClientTLS.Key
	conf.PeerTLSInfo.TrustedCAFile, conf.PeerTLSInfo.ClientCertAuth = c.PeerTLS.CA, c.PeerTLS.CA != ""
	conf.PeerTLSInfo.CertFile, conf.PeerTLSInfo.KeyFile = c.PeerTLS.Cert, c.PeerTLS.Key
	conf.InitialCluster = cmp.Or(c.Cluster, conf.Name+"="+peer)
	if !strings.Contains(","+conf.InitialCluster, ","+conf.Name+"=") {
		errs = append(errs, &podweft.FieldError{Field: "Cluster", Value: c.Cluster, Problem: "has no member " + conf.Name, Remedy: "name this member too"})
	}
	conf.AutoCompactionMode, conf.AutoCompactionRetention = "periodic", cmp.Or(c.Compact, time.Hour).String()
	// What goes wrong is returned; what etcd would write besides is nobody's format.
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return conf, errors.Join(errs...)
}

// Endpoint is the URL that clients reach it at.
func (s *Server) Endpoint() string { return s.cfg.Client }

// Leader reports whether this member leads.
func (s *Server) Leader() bool { return s.etcd.Server.Leader() == s.etcd.Server.MemberID() }

// Failed yields the error that ended the server, if one does.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Stop ends the server, and what clients have open there, and waits until it has ended. The data stay.
func (s *Server) Stop() {
	s.streams.end()
	s.etcd.Close()
}
