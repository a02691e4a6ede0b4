package file

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/subnet/internal/ledger"
)

// now reads CLOCK_MONOTONIC, which all processes of a machine share from boot to boot, nobody can set, and which stands still
// while the machine sleeps, as its nodes do (clock_gettime(2)).
func now() ledger.Now {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return ledger.Now{Time: time.Now()} // never: the clock is there since Linux 2.6. Nothing expires then.
	}
	return ledger.Now{Ticks: time.Duration(ts.Nano()), Time: time.Now()}
}

// bootID tells one boot of the machine from the next (random(4)); it is empty where /proc is not to be had.
var bootID = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})
