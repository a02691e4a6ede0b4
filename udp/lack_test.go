package udp_test

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// lackVar makes an agent one on a kernel that lacks what is tried and done without: as lack has it.
const lackVar = "PODWEFT_UDP_LACK"

// lack has this process see a kernel without datagrams that are cut or joined, without calls for many messages and without what it is told:
// "virtio headers" on a TUN link or, of those, "super-packets". It filters the system calls.
func lack(what string) error {
	// Offsets in struct seccomp_data of linux/seccomp.h, of the low half of the second argument.
	low := uint32(0)
	if word := uint64(1); *(*byte)(unsafe.Pointer(&word)) == 0 {
		low = 4
	}
	number, second := uint32(0), 24+low
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	give := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	// unless skips instructions where what was loaded is not v.
	unless := func(v uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jf: skip}
	}
	const allow, refuse = 0x7fff0000, 0x00050000 // SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
	tun := map[string]uint32{"virtio headers": unix.TUNGETFEATURES, "super-packets": unix.TUNSETOFFLOAD}
	var filter []unix.SockFilter
	for _, call := range []uint32{unix.SYS_SENDMMSG, unix.SYS_RECVMMSG} {
		filter = append(filter, load(number), unless(call, 1), give(refuse|uint32(unix.ENOSYS)))
	}
	for _, one := range []struct {
		call, argument uint32
		errno          unix.Errno
	}{
		{unix.SYS_IOCTL, tun[what], unix.EINVAL},
		{unix.SYS_SETSOCKOPT, unix.IPPROTO_UDP, unix.ENOPROTOOPT},
		{unix.SYS_GETSOCKOPT, unix.IPPROTO_UDP, unix.ENOPROTOOPT},
	} {
		filter = append(filter, load(number), unless(one.call, 3), load(second), unless(one.argument, 1), give(refuse|uint32(one.errno)))
	}
	filter = append(filter, give(allow))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// TestLittleOfAKernel has one node's kernel lack what makes the other's fast: both work, and take over from one another.
func TestLittleOfAKernel(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	far := startAgent(t, o.fabric.Nodes[1])
	far.keep(t, o.specs[1])
	pods := o.pods(t)
	for _, lacks := range []string{"super-packets", "", "virtio headers", ""} { // with the link of the one before
		near, lacking := startAgent(t, o.fabric.Nodes[0], lackVar+"="+lacks), lacks != ""
		near.keep(t, o.specs[0])
		for _, to := range o.podAddrs(1) {
			require.NoError(t, reach(t.Context(), pods[0], to))
			transfer(t, pods[0], pods[1], to)
		}
		s := near.keep(t, o.specs[0])
		assert.Equal(t, lacking, s.Sends == s.SentPackets, "%d packets in %d datagrams", s.SentPackets, s.Sends)
		assert.Equal(t, lacking, s.Writes == s.ReceivedPackets, "%d packets in %d writes", s.ReceivedPackets, s.Writes)
		near.kill(t)
	}
}
