package machine

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// processes are those in the machine's network namespace, but for pods that have one of their own, with their names.
func (m *Machine) processes() iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		var here, there syscall.Stat_t
		if err := syscall.Stat(m.NetNS(), &here); err != nil {
			return
		}
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			if err := syscall.Stat(dir+"/ns/net", &there); err != nil || there.Ino != here.Ino || there.Dev != here.Dev {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(dir))
			name, err := os.ReadFile(dir + "/comm")
			if err == nil && !yield(pid, strings.TrimSpace(string(name))) {
				return
			}
		}
	}
}

// Process finds the id of the program of that name. There must be one.
func (m *Machine) Process(name string) (pid int, err error) {
	for pid, running := range m.processes() {
		if running == name {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no %s on %s", name, m.cfg.Name)
}

// Memory is what a process keeps in memory, as the kernel writes it.
func Memory(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(line, "VmRSS:"); is {
			return strings.TrimSpace(value)
		}
	}
	return "not known"
}
