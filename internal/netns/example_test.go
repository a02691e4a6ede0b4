package netns_test

import (
	"fmt"
	"net"

	"github.com/podweft/podweft/internal/netns"
)

// A socket is opened inside and used anywhere.
func ExampleDo() {
	f, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	var conn net.PacketConn
	err = netns.Do(netns.Path(f), func() (err error) {
		conn, err = net.ListenPacket("udp4", "0.0.0.0:53")
		return err
	})
	fmt.Println(err)
	fmt.Println(conn.LocalAddr())
	conn.Close()
	// Output:
	// <nil>
	// 0.0.0.0:53
}
