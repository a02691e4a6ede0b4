package vxlan

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// ethtool reads and sets what links leave to others. It uses the requests of old that are about one feature each, of
// linux/ethtool.h, which every kernel has.
type ethtool struct{ fd int }

// feature is one such thing, with the requests that read and set it.
type feature struct {
	name     string // for ethtool -K
	get, set uint32
}

var (
	txChecksum = feature{"tx", unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM}
	gro        = feature{"gro", unix.ETHTOOL_GGRO, unix.ETHTOOL_SGRO}
)

// openEthtool opens a socket in the namespace; it stays there wherever it is used.
func openEthtool(namespace string) (e ethtool, err error) {
	err = netns.Do(namespace, func() error {
		e.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return e, &podweft.OpError{Op: "open", Object: podweft.Named("ethtool socket"), Err: err}
	}
	return e, nil
}

// Close frees the socket.
func (e ethtool) Close() error { return unix.Close(e.fd) }

// get reports whether the link has the feature turned on and in force.
func (e ethtool) get(link string, f feature) (bool, error) {
	value := ethtoolValue{command: f.get}
	err := e.do(link, &value)
	return value.data != 0, err
}

// set turns the feature on or off and looks whether it is: the kernel takes note of a wish that it cannot fulfil, and says
// nothing (__netdev_update_features in net/core/dev.c).
func (e ethtool) set(link string, f feature, on bool) error {
	value := ethtoolValue{command: f.set}
	if on {
		value.data = 1
	}
	if err := e.do(link, &value); err != nil {
		return err
	}
	is, err := e.get(link, f)
	if err == nil && is != on {
		err = fmt.Errorf("%w: it stays %s", podweft.ErrNotSupported, toggleOf(is))
	}
	return err
}

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ command, data uint32 }

// ethtoolRequest is struct ifreq with ifr_data, whose union is as long as a struct ifmap: 24 bytes at most.
type ethtoolRequest struct {
	link [unix.IFNAMSIZ]byte
	data *ethtoolValue
	_    [16]byte
}

func (e ethtool) do(link string, value *ethtoolValue) error {
	request := ethtoolRequest{data: value}
	copy(request.link[:unix.IFNAMSIZ-1], link)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", podweft.ErrNotSupported, errno)
	}
	return errno
}
