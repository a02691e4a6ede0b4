package cniplugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/nat"
)

// masquerade gives the node's pods its address when they talk to the world: one table for all pods of the network, which
// the first of them makes. The others ask no more than whether it is still that table.
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
	seen := t.state + "/masquerade/" + t.config.Name
	is := func() string {
		stamp, err := driver.Stamp(t.ctx)
		if err != nil {
			return ""
		}
		return fmt.Sprintln(stamp, spec)
	}
	if last, err := os.ReadFile(seen); err == nil && len(last) > 0 && string(last) == is() {
		return nil
	}
	return locked(t.ctx, t.state+"/masquerade.lock", func() error {
		if _, err := driver.Apply(t.ctx, spec); err != nil {
			return err
		}
		err := os.MkdirAll(filepath.Dir(seen), 0o700)
		if err == nil {
			err = os.WriteFile(seen, []byte(is()), 0o600) // what is cut off equals nothing
		}
		if err != nil {
			t.log.WarnContext(t.ctx, "masquerading will be looked at again for each pod", "err", err)
		}
		return nil
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
