// Package certs makes certificates for tests: those of a CA of the test's own. They are good for an hour, and for this machine alone.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// CA signs certificates.
type CA struct {
	File string // its certificate, in PEM form

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA for as long as the test runs.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{dir: t.TempDir()}
	ca.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA of " + t.Name()}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.File, _, ca.key = ca.sign(t, "ca", ca.cert)
	return ca
}

// Issue makes a certificate for a server or client at the loopback addresses, and returns its file and that of its key.
func (ca *CA) Issue(t testing.TB, name string) (cert, key string) {
	t.Helper()
	cert, key, _ = ca.sign(t, name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return cert, key
}

// Client is how a client trusts the CA, and what it shows, if it has a certificate.
func (ca *CA) Client(t testing.TB, cert, key string) *tls.Config {
	t.Helper()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(ca.cert)
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		require.NoError(t, err)
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// sign makes a key and the certificate that the template describes. The CA's own it signs with that key.
func (ca *CA) sign(t testing.TB, name string, template *x509.Certificate) (certFile, keyFile string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer := ca.key
	if template == ca.cert {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), signer)
	require.NoError(t, err)
	if template == ca.cert {
		ca.cert, err = x509.ParseCertificate(der)
		require.NoError(t, err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(ca.dir, file)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	return write(name+".crt", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", raw), key
}
