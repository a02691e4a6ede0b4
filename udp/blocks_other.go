//go:build !amd64

package udp

// sumMost is where there are no vectors.
func sumMost(b []byte, acc uint64) (uint64, []byte) { return acc, b }

func copyMost(dst, b []byte, acc uint64) (int, uint64) { return 0, acc }
