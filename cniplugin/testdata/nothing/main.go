// Command nothing answers every call at once: what is left of the time of an ADD is the library's, the kernel's for a process, and
// Go's to start.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString(`{"cniVersion":"1.0.0"}`) }
