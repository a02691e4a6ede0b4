package ipam

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bootID is the running kernel's, the same in every container on it (random(4)).
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// sinceBoot is the clock by which released addresses are kept back, in nanoseconds. It is the same for every process, no
// administrator sets it, and it goes on while the machine sleeps.
func sinceBoot() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // only for a clock the kernel does not know; this one exists since 2.6.39
	}
	return uint64(ts.Nano())
}
