package calico

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
	blocketcd "github.com/podweft/podweft/ipam/block/etcd"
	blockfile "github.com/podweft/podweft/ipam/block/file"
	rosteretcd "github.com/podweft/podweft/roster/etcd"
	rosterfile "github.com/podweft/podweft/roster/file"
)

// openStore opens the stores of blocks and of nodes, both in the same place. It waits for none.
func (o *Options) openStore(r *reader) error {
	dir, endpoints := r.text("store-dir"), strings.FieldsFunc(r.text("etcd-endpoints"), func(c rune) bool { return c == ',' || c == ' ' })
	if own := r.text("etcd-listen"); own != "" {
		o.server = embedded.Config{
			Name: o.Config.Node, Dir: r.text("etcd-data"), Client: own, Peer: r.text("etcd-peer"), Cluster: r.text("etcd-cluster"),
			ClientTLS: embedded.TLS{CA: r.text("etcd-listen-ca-file"), Cert: r.text("etcd-listen-cert-file"), Key: r.text("etcd-listen-key-file")},
			PeerTLS:   embedded.TLS{CA: r.text("etcd-peer-ca-file"), Cert: r.text("etcd-peer-cert-file"), Key: r.text("etcd-peer-key-file")},
		}
		endpoints = []string{own}
	}
	switch kind := r.text("datastore"); {
	case kind == "kubernetes":
		return o.openCluster(r)
	case kind != "" && kind != "etcdv3":
		r.bad("datastore", "is no store", "write kubernetes or etcdv3")
		return r.err
	case dir == "" && len(endpoints) == 0:
		return &podweft.FieldError{Field: "--etcd-endpoints", Problem: "are missing", Remedy: "name etcd's, or --datastore=kubernetes, or a --store-dir that the nodes of one machine share"}
	case dir != "" && len(endpoints) > 0:
		return &podweft.FieldError{Field: "--store-dir", Value: dir, Problem: "does not go with --etcd-endpoints", Remedy: "give one of the two"}
	case dir != "":
		return o.openFiles(dir)
	}
	files := embedded.TLS{CA: r.text("etcd-ca-file"), Cert: r.text("etcd-cert-file"), Key: r.text("etcd-key-file")}
	if files == (embedded.TLS{}) {
		files = o.server.ClientTLS
	}
	tls, err := loadTLS(files.CA, files.Cert, files.Key)
	if err != nil {
		return err
	}
	cfg := blocketcd.Config{
		Endpoints: endpoints, Prefix: r.text("etcd-prefix"), TLS: tls, Username: r.text("etcd-username"), Password: r.text("etcd-password"),
	}
	blocks, err := blocketcd.New(cfg)
	if err != nil {
		return err
	}
	o.closers = append(o.closers, blocks)
	nodes, err := rosteretcd.New(rosteretcd.Config{
		Endpoints: cfg.Endpoints, Prefix: cfg.Prefix, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
	})
	if err != nil {
		return errors.Join(err, o.Close())
	}
	o.closers = append(o.closers, nodes)
	o.Config.Blocks, o.Config.Nodes = blocks, nodes
	return nil
}

func (o *Options) openFiles(dir string) error {
	blocks, err := blockfile.New(filepath.Join(dir, "blocks"))
	if err != nil {
		return err
	}
	nodes, err := rosterfile.New(filepath.Join(dir, "nodes"))
	if err != nil {
		return err
	}
	o.Config.Blocks, o.Config.Nodes = blocks, nodes
	return nil
}

// Close closes the connections to the store.
func (o *Options) Close() error {
	var errs []error
	for _, c := range o.closers {
		errs = append(errs, c.Close())
	}
	o.closers = nil
	return errors.Join(errs...)
}

// loadTLS reads certificates; without any it is nil, which is the system's CAs and no certificate of ours.
func loadTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca-file: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &podweft.FieldError{Field: "--etcd-ca-file", Value: ca, Problem: "has no certificate", Remedy: "name a file in PEM form"}
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert-file and --etcd-key-file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
