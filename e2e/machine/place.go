package machine

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/podweft/podweft/testnet"
)

// Place is where somebody asks from who has no part in the cluster: a machine, or another node of its network.
type Place struct{ *testnet.Node }

// Get asks for a page. A machine itself reaches its own pods, whatever policies say.
func (p Place) Get(ctx context.Context, url string) (*http.Response, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (conn net.Conn, err error) {
			err = p.Do(func() error {
				conn, err = net.DialTimeout(network, addr, 3*time.Second) // an address: no name is resolved here
				return err
			})
			return conn, err
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}
