package cluster

import (
	"context"
	"crypto/tls"
	"net/http"
)

// Where pods and Services have their addresses.
const (
	podNetwork     = "10.244.0.0/16"
	serviceNetwork = "10.96.0.0/16"
)

const (
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// StartControllers runs the controllers and the scheduler, which then do what tests play otherwise. Nodes get a /24 each of 10.244.0.0/16.
func (c *Cluster) StartControllers() {
	c.t.Helper()
	c.startController(controllerManager, "https://127.0.0.1:10257/healthz", "--root-ca-file", c.CAFile(),
		"--service-account-private-key-file", c.path("accounts.pem"),
		"--use-service-account-credentials", // each controller has its own rights, and together they have none
		"--allocate-node-cidrs", "--cluster-cidr", podNetwork, "--service-cluster-ip-range", serviceNetwork)
	c.startController(scheduler, "https://127.0.0.1:10259/healthz")
}

func (c *Cluster) startController(name, health string, args ...string) {
	c.t.Helper()
	p := c.process(Program(), append([]string{
		name, "--kubeconfig", c.Kubeconfig(Token("system:" + name)), "--leader-elect=false", "--bind-address", "127.0.0.1", "--profiling=false",
	}, args...)...)
	p.start()
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("%s: %s", name, p.log)
		}
	})
	// Its certificate is its own, and nothing is told to it.
	client := &http.Client{Transport: &http.Transport{
		DialContext: c.dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
	c.await(name, p, func(ctx context.Context) error { return c.get(ctx, client, health) })
}
