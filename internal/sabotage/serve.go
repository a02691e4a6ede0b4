package sabotage

import (
	"net"
	"net/netip"
	"testing"

	"github.com/podweft/podweft/testnet"
)

// Serve answers on a node's port 80 until the test ends, TCP and UDP, both families, with the node's name and the address it was asked
// from: "pod0 192.0.2.2".
func Serve(t testing.TB, n *testnet.Node) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := n.Do(func() (err error) {
		if tcp, err = net.Listen("tcp", ":80"); err == nil {
			udp, err = net.ListenPacket("udp", ":80")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		<-done
		<-done
	})
	answer := func(from net.Addr) []byte {
		return []byte(n.Name + " " + netip.MustParseAddrPort(from.String()).Addr().Unmap().String())
	}
	go func() {
		for c, err := tcp.Accept(); err == nil; c, err = tcp.Accept() {
			_, _ = c.Write(answer(c.RemoteAddr())) // who asked hears nothing, and says so
			c.Close()
		}
		done <- struct{}{}
	}()
	go func() {
		buf := make([]byte, 100)
		for _, from, err := udp.ReadFrom(buf); err == nil; _, from, err = udp.ReadFrom(buf) {
			_, _ = udp.WriteTo(answer(from), from)
		}
		done <- struct{}{}
	}()
}
