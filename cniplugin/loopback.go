package cniplugin

import (
	"errors"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// loopback answers as the loopback plugin does, which runtimes start for every pod: its loopback link is brought up.
func (t *task) loopback() (*types100.Result, error) {
	if t.command != "ADD" && t.command != "CHECK" {
		return nil, nil // the link goes with the namespace
	}
	if err := t.enterable(); err != nil {
		return nil, err
	}
	conn, err := nl.Dial(t.netns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	lo, err := conn.Link("lo")
	if err != nil {
		return nil, err
	}
	if t.command == "CHECK" {
		if !lo.Up {
			return nil, &Error{Code: CodeMissing, Msg: "link lo is down: DEL the pod and ADD it again"}
		}
		return nil, nil
	}
	var b nl.Batch
	b.SetUp(lo.Index, true)
	if err := errors.Join(conn.Do(t.ctx, &b)...); err != nil {
		return nil, &podweft.OpError{Op: "bring up", Object: podweft.Named("link lo"), Err: err}
	}
	before, err := t.config.previous()
	if err != nil || before != nil {
		return before, err
	}
	r := &types100.Result{Interfaces: []*types100.Interface{{
		Name: "lo", Mac: lo.MAC.String(), Mtu: lo.MTU, Sandbox: t.netns,
	}}}
	all, err := conn.Addresses(lo.Index)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: ipNet(a.Prefix)})
	}
	if len(all) == 0 { // the kernel gives them in its own time
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: ipNet(netip.MustParsePrefix("127.0.0.1/8"))})
	}
	return r, nil
}
