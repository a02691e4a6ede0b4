package etcd

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"path"
	"time"

	"github.com/podweft/podweft/internal/etcdconn"
)

// Defaults of [Config].
const (
	DefaultPrefix  = "/podweft"
	DefaultTimeout = etcdconn.DefaultTimeout
)

// Config says how etcd is reached. Only Endpoints is required.
type Config struct {
	Endpoints []string      // URLs of the cluster's members: "http://10.0.0.1:2379"
	Prefix    string        // of all keys; empty: DefaultPrefix
	TLS       *tls.Config   // for https endpoints: their CA, and our certificate if they want one; nil: the system's CAs
	Username  string        // where etcd wants one; empty: none
	Password  string        // of Username
	Timeout   time.Duration // of one request; zero: DefaultTimeout
	Logger    *slog.Logger  // hears of a connection that is lost, and found; nil: silent
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c Config) Validate() error { return c.connection().Validate() }

func (c Config) connection() etcdconn.Config {
	return etcdconn.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Username: c.Username, Password: c.Password, Timeout: c.Timeout, Logger: c.Logger,
	}
}

func (c Config) keys() keys {
	return keys{path.Join(path.Clean(cmp.Or(c.Prefix, DefaultPrefix)), "nodes") + "/"}
}
