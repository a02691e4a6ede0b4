package vxlan

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Offload is which work a VTEP leaves to others, as `ethtool -K` sets it. Its zero value leaves everything as it is: the
// kernel turns all of it on for a new VTEP, and that is right unless a device on the way is broken.
type Offload struct {
	// Checksum leaves the inner checksums of packets sent to the underlay interface (`ethtool -K LINK tx`). Off works around
	// interfaces that compute them wrongly. It takes segmentation offload along and leaves about a quarter of the
	// throughput of TCP, so it is for one device on proof, never for all.
	Checksum Toggle
	// GRO puts the segments of one stream together again after they have been unwrapped (`ethtool -K LINK gro`). Where the
	// underlay interface does not do that, Off leaves about half of the throughput of TCP.
	GRO Toggle
}

// Toggle is a setting that may be left alone.
type Toggle uint8

// What a Toggle may be. Keep leaves the setting as the kernel made it, or as somebody set it since.
const (
	Keep Toggle = iota
	On
	Off
)

// String returns "keep", "on" or "off".
func (t Toggle) String() string {
	switch t {
	case Keep:
		return "keep"
	case On:
		return "on"
	case Off:
		return "off"
	}
	return fmt.Sprintf("Toggle(%d)", uint8(t))
}

func toggleOf(on bool) Toggle {
	if on {
		return On
	}
	return Off
}

// setting is one that a Spec asks for. It is an object of our plans.
type setting struct {
	feature feature
	want    Toggle
	link    string
}

func (s setting) ID() string { return fmt.Sprintf("offload %s dev %s", s.feature.name, s.link) }

func (s setting) String() string {
	return fmt.Sprintf("offload %s %s dev %s", s.feature.name, s.want, s.link)
}

// settings are those that are not to be left alone.
func (v VTEP) settings() []setting {
	var all []setting
	for _, s := range []setting{{txChecksum, v.Offload.Checksum, v.name()}, {gro, v.Offload.GRO, v.name()}} {
		if s.want != Keep {
			all = append(all, s)
		}
	}
	return all
}

// offload makes the settings of the VTEP what v asks for, and asks the kernel nothing where v leaves them alone.
func (s *linkStep) offload(v VTEP, exists bool) error {
	settings := v.settings()
	if len(settings) == 0 {
		return nil
	}
	if !exists { // in a plan; the kernel turns everything on for a new VTEP (vxlan_setup in drivers/net/vxlan)
		for _, o := range settings {
			if o.want == Off {
				s.Plan = append(s.Plan, podweft.Change{Op: podweft.Update, Object: o})
			}
		}
		return nil
	}
	e, err := openEthtool(s.d.netns)
	if err != nil {
		return err
	}
	defer e.Close()
	for _, o := range settings {
		s.setting(e, o)
	}
	return nil
}

func (s *linkStep) setting(e ethtool, o setting) {
	have, err := e.get(o.link, o.feature)
	switch {
	case errors.Is(err, unix.ENODEV): // gone this very moment, of which the kernel tells us
	case err != nil:
		s.Try(s.ctx, podweft.Update, o, "", func() error { return err })
	case toggleOf(have) != o.want:
		s.Try(s.ctx, podweft.Update, o, "was "+toggleOf(have).String(), func() error { return e.set(o.link, o.feature, o.want == On) })
	}
}
