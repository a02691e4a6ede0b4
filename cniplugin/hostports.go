package cniplugin

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node/local"
)

// portmap answers as the portmap plugin does, behind a plugin that has attached the pod.
func (t *task) portmap() (*types100.Result, error) {
	switch t.command {
	case "ADD":
		before, err := t.config.previous()
		if err != nil {
			return nil, err
		}
		return before, t.portmapAdd(before)
	case "DEL":
		return nil, t.portmapDel()
	case "CHECK":
		return nil, t.portmapCheck()
	case "GC":
		return nil, errors.Join(t.collectPorts(), t.collectReference())
	}
	return nil, nil
}

var errNoPrevious = &Error{Code: CodeConfig, Msg: "prevResult is missing: put this plugin behind one that attaches the pod"}

func (t *task) portmapAdd(before *types100.Result) error {
	if before == nil {
		return errNoPrevious
	}
	ports, err := t.config.toPublish()
	if err != nil || len(ports) == 0 {
		return err
	}
	return t.publish(ports, podAddresses(before, t.ifname))
}

func (t *task) portmapCheck() error {
	before, err := t.config.previous()
	if err == nil && before == nil {
		err = errNoPrevious
	}
	if err != nil {
		return err
	}
	return differs("the host ports are not as they were opened: DEL the pod and ADD it again", t.checkPublished())
}

// portmapDel closes the pod's host ports: those of a pod that nobody has recorded here, as the reference plugin opened them.
func (t *task) portmapDel() error {
	rec, err := t.published()
	if err != nil {
		return err
	}
	if err := t.unpublishAll(rec); err != nil || len(rec.HostPorts) > 0 {
		return err
	}
	if _, err := t.records.Get(t.key()); err == nil {
		return nil
	}
	return t.forgetReference()
}

// hostPorts are those that the runtime asks for. A mapping without a host port asks for none.
func (c *config) hostPorts() (all []local.HostPort, err error) {
	known := map[local.HostPort][]local.HostPort{} // by protocol and host port: a user may ask for thousands
	for i, m := range c.RuntimeConfig.PortMappings {
		field := fmt.Sprintf("runtimeConfig.portMappings[%d]", i)
		if m.HostPort == 0 {
			continue
		}
		bad := func(sub string, value any, problem, remedy string) error {
			return &podweft.FieldError{Field: field + sub, Value: value, Problem: problem, Remedy: remedy}
		}
		protocol, err := nat.ParseProtocol(m.Protocol)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		h := local.HostPort{Protocol: protocol.String()}
		switch {
		case m.HostPort < 0 || m.HostPort > 65535:
			return nil, bad(".hostPort", m.HostPort, "is not a port", "use 1 to 65535")
		case m.ContainerPort < 1 || m.ContainerPort > 65535:
			return nil, bad(".containerPort", m.ContainerPort, "is not a port", "use 1 to 65535")
		}
		h.Host, h.Pod = uint16(m.HostPort), uint16(m.ContainerPort)
		if m.HostIP != "" {
			if h.HostIP, err = netip.ParseAddr(m.HostIP); err != nil {
				return nil, bad(".hostIP", fmt.Sprintf("%q", m.HostIP), "is not an address", "")
			}
			if h.HostIP.Zone() != "" {
				return nil, bad(".hostIP", fmt.Sprintf("%q", m.HostIP), "is of one link alone", "name an address of the node without a link, or none")
			}
			h.HostIP = h.HostIP.Unmap()
		}
		others := known[local.HostPort{Protocol: h.Protocol, Host: h.Host}]
		if slices.Contains(others, h) {
			continue
		}
		for _, o := range others {
			if o.Pod != h.Pod && samePlace(o.HostIP, h.HostIP) {
				problem := fmt.Sprintf("leads to port %d of the pod already", o.Pod)
				return nil, bad("", fmt.Sprintf("%s %d", h.Protocol, h.Host), problem, "publish one of them on another port")
			}
		}
		known[local.HostPort{Protocol: h.Protocol, Host: h.Host}] = append(others, h)
		all = append(all, h)
	}
	return all, nil
}

// samePlace reports whether a host port that is open on one of the addresses is open on the other. None is every address.
func samePlace(a, b netip.Addr) bool {
	everywhere := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	return a == b || everywhere(a) && everywhere(b) && !(a.IsValid() && b.IsValid())
}

// lead makes them lead to the pod, in each family that it has an address of and that the host port is open in. Who asks for a port of
// each family's addresses gets that of the pod's; the reference leaves out the other, too.
func lead(ports []local.HostPort, pod []netip.Prefix) (all []nat.HostPort, err error) {
	type end struct {
		protocol  string
		host, pod uint16
	}
	opened := map[end]bool{}
	for _, h := range ports {
		protocol, err := nat.ParseProtocol(h.Protocol)
		if err != nil {
			return nil, err
		}
		for _, a := range pod {
			if h.HostIP.IsValid() && h.HostIP.Is4() != a.Addr().Is4() {
				continue
			}
			opened[end{h.Protocol, h.Host, h.Pod}] = true
			all = append(all, nat.HostPort{
				Protocol: protocol, HostIP: h.HostIP, Port: h.Host, Pod: netip.AddrPortFrom(a.Addr(), h.Pod), KeepSource: h.KeepSource,
			})
		}
	}
	for _, h := range ports {
		if !opened[end{h.Protocol, h.Host, h.Pod}] {
			return nil, &podweft.FieldError{
				Field: "runtimeConfig.portMappings", Value: h.HostIP, Problem: "is of a family that the pod has no address of",
			}
		}
	}
	return firstOfPlace(all), nil
}

// firstOfPlace leaves out a pod's further addresses: a port leads to one place.
func firstOfPlace(all []nat.HostPort) []nat.HostPort {
	taken := map[nat.HostPort]bool{}
	return slices.DeleteFunc(all, func(h nat.HostPort) bool {
		had := taken[h.Place()]
		taken[h.Place()] = true
		return had
	})
}

// portRecords are beside those of the attachments: another plugin of the chain may keep them.
func (t *task) portRecords() (*local.Records, error) {
	return local.Open(t.state+"/hostports", t.cfg.BootID)
}

func (t *task) ports() (*nat.Ports, error) {
	return nat.NewPorts(nat.Config{Owner: t.config.Name, NetNS: t.cfg.NetNS, Logger: t.log})
}

// publish opens host ports of the pod. The record comes first, for a port without one would stay open for ever.
func (t *task) publish(ports []local.HostPort, pod []given) error {
	rec := local.Record{Network: t.config.Name, Container: t.container, Interface: t.ifname, NetNS: t.netns, HostPorts: ports}
	near := make([]netip.Prefix, 0, len(pod))
	for _, a := range pod {
		rec.Addresses = append(rec.Addresses, a.prefix)
		near = append(near, a.prefix.Masked())
	}
	all, err := lead(ports, rec.Addresses)
	if err == nil {
		err = nat.PortSpec{Ports: all, Near: near}.Validate() // nobody could close or keep what makes no sense
	}
	if err != nil {
		return err
	}
	records, err := t.portRecords()
	if err != nil {
		return err
	}
	if err := records.Put(rec); err != nil {
		return fail(CodeIO, "the host ports cannot be recorded", err)
	}
	p, err := t.ports()
	if err == nil {
		defer p.Close()
		err = p.Add(t.ctx, all, near...)
	}
	if err == nil {
		err = t.answerLoopback(all)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, podweft.ErrConflict): // nothing was opened
		err = fail(CodeTaken, "a host port that was asked for leads to another pod of this node", err)
		return stepsDown(err, []func() error{func() error { return records.Remove(t.key()) }})
	}
	return stepsDown(err, []func() error{t.unpublish})
}

// answerLoopback lets pods be reached through 127.0.0.1: the kernel sends nothing from there through a link that does not
// say so. Package nat keeps others out. Those that keep sources could not answer there.
func (t *task) answerLoopback(ports []nat.HostPort) error {
	if !slices.ContainsFunc(ports, func(h nat.HostPort) bool { return h.Pod.Addr().Is4() && !h.KeepSource }) {
		return nil
	}
	link, err := t.towards()
	if err != nil || link == "" {
		return err
	}
	if err := sysctl.Ensure(t.cfg.NetNS, "net/ipv4/conf/"+link+"/route_localnet", "1"); err != nil {
		t.log.WarnContext(t.ctx, "host ports cannot be reached through 127.0.0.1", "link", link, "err", err)
	}
	return nil
}

// towards is the node's link that leads to the pod: what the result names first on the node.
func (t *task) towards() (string, error) {
	if t.call.Type != "portmap" {
		if t.config.routed() {
			rec, err := t.records.Get(t.key())
			return rec.HostName, err
		}
		if t.config.Bridge != "" {
			return t.config.Bridge, nil
		}
		return bridge.DefaultName, nil
	}
	before, err := t.config.previous()
	if err != nil || before == nil {
		return "", err
	}
	for _, l := range before.Interfaces {
		if l.Sandbox == "" {
			return l.Name, nil
		}
	}
	return "", nil
}

// unpublish closes the pod's host ports.
func (t *task) unpublish() error {
	rec, err := t.published()
	if err != nil {
		return err
	}
	return t.unpublishAll(rec)
}

// unpublishAll closes those of the record. An agent must do it itself, or it would put back what it knows to be the pod's.
func (t *task) unpublishAll(rec local.Record) error {
	if _, err := os.Stat(socketOf(t.state)); err == nil && t.viaAgent() {
		return nil
	}
	return t.closePublished(rec)
}

// published is the record of the pod's host ports; one without any is of a pod that has none. Read it before an agent is asked:
// one that fails may have removed it already.
func (t *task) published() (rec local.Record, err error) {
	records, err := t.portRecords()
	if err != nil {
		return rec, err
	}
	rec, err = records.Get(t.key())
	if errors.Is(err, local.ErrUnread) {
		return rec, err // without it they would stay open for ever
	}
	if err != nil && !errors.Is(err, local.ErrNoRecord) {
		t.log.WarnContext(t.ctx, "record left out", "err", err)
	}
	return rec, nil
}

// closePublished closes the pod's host ports, as they were recorded. Where that fails the record stays, for the DEL that comes
// again, or is put back.
func (t *task) closePublished(rec local.Record) error {
	records, err := t.portRecords()
	if err != nil {
		return err
	}
	if len(rec.HostPorts) > 0 {
		if err := t.closePorts(rec); err != nil {
			return errors.Join(err, records.Put(rec))
		}
	}
	return records.Remove(t.key())
}

// closePorts closes what is recorded. A record that makes no sense, which only a plugin of before has written, was refused where it would
// have opened anything.
func (t *task) closePorts(rec local.Record) error {
	all, err := lead(rec.HostPorts, rec.Addresses)
	if err == nil {
		err = nat.PortSpec{Ports: all}.Validate()
	}
	if err != nil {
		t.log.WarnContext(t.ctx, "host ports that were never open are forgotten", "err", err)
		return nil
	}
	p, err := t.ports()
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Remove(t.ctx, all)
}

// checkPublished reports host ports that are recorded and not open.
func (t *task) checkPublished() error {
	records, err := t.portRecords()
	if err != nil {
		return err
	}
	rec, err := records.Get(t.key())
	if errors.Is(err, local.ErrNoRecord) {
		asked, err := t.config.hostPorts()
		if err != nil || len(asked) == 0 {
			return err
		}
		return errors.New("the host ports are not recorded")
	}
	if err != nil {
		return err
	}
	all, err := lead(rec.HostPorts, rec.Addresses)
	if err != nil {
		return err
	}
	p, err := t.ports()
	if err != nil {
		return err
	}
	defer p.Close()
	lacking, err := p.Missing(t.ctx, all)
	if err == nil && len(lacking) > 0 {
		err = fmt.Errorf("not open: %v", lacking)
	}
	return err
}
