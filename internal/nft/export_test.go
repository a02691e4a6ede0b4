package nft

import "golang.org/x/sys/unix"

// FixSendBuffer gives the socket a send buffer of n bytes that does not grow, as where no more is granted.
func (c *Conn) FixSendBuffer(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most = n
	_ = c.sock.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n/2) // the kernel doubles it
		c.limit, _ = sendLimit(int(fd))
	})
}
