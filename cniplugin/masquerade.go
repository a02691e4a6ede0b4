package cniplugin

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/nat"
)

// masquerade gives the node's pods its address when they talk to the world: one table for all pods of the network, which
// the first of them makes. While nothing is missing, it costs a look.
func (t *task) masquerade(n *network, addresses []given) error {
	spec := nat.Spec{Exempt: n.exempt}
	for _, a := range addresses {
		spec.Masquerade = append(spec.Masquerade, a.prefix.Masked())
	}
	for _, r := range n.routes {
		if p := r.Prefix; p.Bits() > 0 { // towards the cluster
			spec.Exempt = append(spec.Exempt, p)
		}
	}
	driver, err := nat.New(nat.Config{Owner: t.config.Name, NetNS: t.cfg.NetNS, Logger: t.log})
	if err != nil {
		return err
	}
	defer driver.Close()
	plan, err := driver.Plan(t.ctx, spec)
	if err == nil && len(plan) == 0 {
		return nil
	}
	return locked(t.ctx, t.state+"/masquerade.lock", func() error {
		_, err := driver.Apply(t.ctx, spec)
		return err
	})
}

// locked runs fn while no other process holds the file's lock: two that made the same rules at once would make them twice.
func locked(ctx context.Context, path string, fn func() error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fail(CodeIO, "lock", err)
	}
	defer f.Close()
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fail(CodeIO, "lock "+path, err)
	}
	return fn()
}
