package ipam

import "errors"

// The errors a caller can branch on with errors.Is. A value that makes no sense (in Config, an Owner, a wanted address) is
// a podweft.FieldError; a Pool that was closed gives os.ErrClosed; an operation on the file keeps its errno.
var (
	// ErrExhausted: a set of ranges has no address left.
	ErrExhausted = errors.New("no free address")
	// ErrTaken: the wanted address is somebody else's. The text names the owner.
	ErrTaken = errors.New("address is taken")
	// ErrNotFound: the owner holds no address.
	ErrNotFound = errors.New("holds no address")
	// ErrLocked: another process has held the lock for longer than Config.Patience. The text names the file.
	ErrLocked = errors.New("another process holds the lock")
	// ErrDamaged: the file at Config.Path is not a store of this package, or was changed by something else. It is left
	// as it is. The remedy is to remove it once no pod runs, or to reboot.
	ErrDamaged = errors.New("store is damaged or foreign (remove it when no pod runs, or reboot)")
)
