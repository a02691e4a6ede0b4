package embedded

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"os"

	"github.com/podweft/podweft"
)

// TLS names files in PEM form. The server reads the certificate and its key anew for each connection, so that they can be renewed
// while it runs.
type TLS struct {
	CA   string // certificate of the CA that has to have signed the other side's
	Cert string // what the server shows; it names the hosts of the server's URLs
	Key  string // Cert's
}

// check says what is wrong with the files, by the name of the Config's field: etcd says so only to its log.
func (t TLS) check(field string) (errs []error) {
	if t == (TLS{}) {
		return nil
	}
	for _, f := range []struct {
		missing      bool
		name, remedy string
	}{
		{t.Cert == "", ".Cert", "name a certificate in PEM form"},
		{t.Key == "", ".Key", "name the certificate's key"},
		{t.CA == "" && field == "PeerTLS", ".CA", "name the CA of the members, or each of them would take anybody for another"},
	} {
		if f.missing {
			errs = append(errs, &podweft.FieldError{Field: field + f.name, Problem: "is missing", Remedy: f.remedy})
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", field, err))
	}
	if t.CA == "" {
		return errs
	}
	if pem, err := os.ReadFile(t.CA); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", field, err))
	} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		errs = append(errs, &podweft.FieldError{Field: field + ".CA", Value: t.CA, Problem: "has no certificate in it", Remedy: "name a PEM file"})
	}
	return errs
}

// Open are the URLs at which the server is open to whoever reaches them from another machine: without TLS.
func (c Config) Open() (urls []string) {
	for _, text := range []string{c.Client, c.Peer} {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" || u.Hostname() == "localhost" {
			continue
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && addr.IsLoopback() {
			continue
		}
		urls = append(urls, text)
	}
	return urls
}
