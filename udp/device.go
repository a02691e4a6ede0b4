package udp

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// device is a TUN link that this process is attached to.
type device struct {
	name   string
	index  int
	queues []*tunQueue
	takes  supers
}

// supers are the kinds of super-packets that a TUN link takes.
type supers struct{ tcp, udp bool }

const tunPath = "/dev/net/tun"

// tunFlags of each queue: bare IP packets, behind a virtioHeader. With IFF_MULTI_QUEUE even where there is one queue: a link keeps it
// or its lack for life, and the next process may want more.
const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE

// attach opens queues of the TUN link of that name in the namespace; with create it makes the link, which lives as long as the
// queues unless it is told to persist.
func attach(netnsPath, name string, queues int, create bool) (*device, error) {
	d := &device{name: name}
	err := netns.Do(netnsPath, func() error {
		for range queues {
			if err := d.open(create && len(d.queues) == 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *device) open(create bool) error {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: open %s: %w", podweft.ErrNotSupported, tunPath, err)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("open %s: %w: let everybody open it (mode 0666), as udev does: what may be done with it is decided later", tunPath, err)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", tunPath, err)
	}
	q, err := d.configure(fd, create)
	if err != nil {
		unix.Close(fd)
		return err
	}
	d.queues = append(d.queues, q)
	return nil
}

// configure makes fd a queue of the link.
func (d *device) configure(fd int, create bool) (*tunQueue, error) {
	flags := uint16(tunFlags)
	if known, err := unix.IoctlGetUint32(fd, unix.TUNGETFEATURES); err != nil || known&unix.IFF_VNET_HDR == 0 {
		flags &^= unix.IFF_VNET_HDR
	}
	if create {
		flags |= unix.IFF_TUN_EXCL
	}
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, err
	}
	q := &tunQueue{fd: uintptr(fd), bare: flags&unix.IFF_VNET_HDR == 0}
	if q.bare {
		_ = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0) // which whoever had the link before may have set
		return q, nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, virtioLen); err != nil {
		return nil, err
	}
	d.takes = offload(fd)
	return q, nil
}

// offload has the link give super-packets and leave checksums to us, as far as the kernel has that, and reports what it takes, which
// is the same.
func offload(fd int) supers {
	const tso = tunOffloadChecksum | tunOffloadTSO4 | tunOffloadTSO6
	for _, try := range [...]struct {
		bits  int
		takes supers
	}{
		{tso | tunOffloadUSO4 | tunOffloadUSO6, supers{tcp: true, udp: true}}, // since Linux 6.2
		{tso, supers{tcp: true}},
	} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, try.bits) == nil {
			return try.takes
		}
	}
	return supers{}
}

// persist makes the link outlive this process.
func (d *device) persist() error {
	return unix.IoctlSetInt(int(d.queues[0].fd), unix.TUNSETPERSIST, 1)
}

func (d *device) close() error {
	if d == nil {
		return nil
	}
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}
