package bridge

import (
	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
)

func (p Port) id() cable.ID {
	return cable.ID{Container: p.Container, Name: p.Name, HostName: p.HostName}
}

func bridgeMAC(owner string, b Bridge) podweft.MAC {
	if len(b.Gateways) > 0 {
		return cable.DeriveMAC("bridge", b.Gateways[0].Addr().String())
	}
	return cable.DeriveMAC("bridge", owner, b.Name)
}

func podMAC(owner string, p Port) podweft.MAC {
	first := ""
	if len(p.Addresses) > 0 {
		first = p.Addresses[0].Addr().String()
	}
	return cable.PodMAC(owner, p.id(), first)
}
