package cniplugin

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podweft/podweft/bridge"
)

func route(r *types.Route) bridge.Route {
	return bridge.Route{Prefix: fromIPNet(r.Dst), Via: fromIP(r.GW)}
}

// behind is the result of a plugin that comes after others: theirs, with ours behind it.
func behind(before, r *types100.Result) *types100.Result {
	if before == nil {
		return r
	}
	for _, ip := range r.IPs {
		if ip.Interface != nil {
			ip.Interface = types100.Int(*ip.Interface + len(before.Interfaces))
		}
	}
	before.Interfaces = append(before.Interfaces, r.Interfaces...)
	before.IPs = append(before.IPs, r.IPs...)
	before.Routes = append(before.Routes, r.Routes...)
	if before.DNS.IsEmpty() {
		before.DNS = r.DNS
	}
	return before
}

// flannel answers as flannel's plugin does: for the plugin that its configuration delegates to.
func (t *task) flannel() (*types100.Result, error) {
	if t.command == "DEL" {
		return nil, t.flannelDel()
	}
	if t.command == "GC" {
		return nil, t.flannelGC()
	}
	if t.command == "CHECK" {
		if rec, err := t.records.Get(t.key()); err == nil {
			t.config.lease = rec.Lease
		}
	}
	d, err := t.config.flannel()
	if err != nil {
		if t.command == "STATUS" {
			err = notReady(err)
		}
		return nil, err
	}
	inner := *t
	inner.config = d
	if inProcess(d.Type) {
		return inner.attach()
	}
	inner.delegated = true
	switch t.command {
	case "ADD":
		return inner.addElsewhere()
	case "STATUS":
		return nil, inner.statusOf(d.Type)
	default:
		return nil, inner.runPlugin(d.Type, t.command, d.raw)
	}
}

// addElsewhere lets the delegate attach the pod. The record comes first: a DEL needs the configuration whatever happens.
func (t *task) addElsewhere() (*types100.Result, error) {
	if err := t.unattached(); err != nil {
		return nil, err
	}
	rec := t.record()
	rec.Delegate = t.config.raw
	if err := t.note(rec); err != nil {
		return nil, err
	}
	undo := []func() error{func() error { return t.records.Remove(t.key()) }}
	r, err := t.addPlugin(t.config.Type, t.config.raw)
	if err != nil {
		return nil, stepsDown(err, undo)
	}
	undo = append(undo, func() error { return t.runPlugin(t.config.Type, "DEL", t.config.raw) })
	for _, a := range podAddresses(r, t.ifname) {
		rec.Addresses = append(rec.Addresses, a.prefix)
	}
	if err = t.note(rec); err == nil {
		err = t.admit(rec)
	}
	if err != nil {
		return nil, stepsDown(err, append(undo, t.dismiss))
	}
	return r, nil
}

// flannelGC frees what is recorded, for which no lease is needed. A delegate of another type, whose configuration follows from the
// lease, frees what it knows of.
func (t *task) flannelGC() error {
	d, err := t.config.flannel()
	if err != nil {
		return t.gc()
	}
	inner := *t
	inner.config = d
	if inProcess(d.Type) {
		return inner.gc()
	}
	return errors.Join(t.gc(), inner.runPlugin(d.Type, "GC", d.raw))
}

// flannelDel removes an attachment, of flannel's own plugin too: that kept the delegate's configuration in a file of the
// container's name, which goes with it.
func (t *task) flannelDel() error {
	dir := t.config.DataDir
	if dir == "" {
		dir = defaultFlannelDir
	}
	scratch := filepath.Join(dir, t.container)
	raw, err := os.ReadFile(scratch)
	if err == nil && len(raw) > 0 { // an empty one was lost with the power
		if c, err := parseConfig(raw); err == nil && !inProcess(c.Type) {
			if err := t.runPlugin(c.Type, "DEL", raw); err != nil {
				return err
			}
		}
	}
	if err := t.del(); err != nil {
		return err
	}
	if err := os.Remove(scratch); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(CodeIO, "flannel's file of this container cannot be removed", err)
	}
	return nil
}
