package etcdconn

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/podweft/podweft"
)

// DefaultTimeout is [Config]'s.
const DefaultTimeout = 5 * time.Second

// Config says how etcd is reached. Only Endpoints is required.
type Config struct {
	Endpoints []string      // URLs of the cluster's members
	TLS       *tls.Config   // for https endpoints; nil: the system's CAs
	Username  string        // where etcd wants one
	Password  string        // of Username
	Timeout   time.Duration // of one request; zero: DefaultTimeout
	Logger    *slog.Logger  // hears of a connection that is lost, and found; nil: silent
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c Config) Validate() error {
	var errs []error
	fail := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	if len(c.Endpoints) == 0 {
		fail("Endpoints", nil, "are missing", `give etcd's URL, such as "http://10.0.0.1:2379"`)
	}
	for _, e := range c.Endpoints {
		if u, err := url.Parse(e); err != nil || u.Host == "" && u.Scheme != "unix" {
			fail("Endpoints", fmt.Sprintf("%q", e), "is not a URL", `write "http://10.0.0.1:2379"`)
		}
	}
	if c.Timeout < 0 {
		fail("Timeout", c.Timeout, "is negative", "leave it zero for five seconds")
	}
	if c.Username == "" && c.Password != "" {
		fail("Username", nil, "is missing", "say whose the password is")
	}
	return errors.Join(errs...)
}

// Dial makes the connection, which comes about by itself. With a user name it asks for a token at once.
func Dial(c Config) (*Conn, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Username: c.Username, Password: c.Password,
		DialTimeout: c.Timeout,
		// A peer that vanished without a word is noticed within 15 s. More often than every 5 s etcd would not have it.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		Logger: zap.NewNop(), // it would write to stderr
		// gRPC would wait up to two minutes between two tries, and nodes hear nothing meanwhile.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return &Conn{Client: client, timeout: c.Timeout, log: c.Logger}, nil
}
