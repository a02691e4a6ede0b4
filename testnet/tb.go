package testnet

// TB is what this package needs of a test; *testing.T, *testing.B and *testing.F are one. (Named here so that programs
// that use the package do not link in testing and its flags.)
type TB interface {
	Helper()
	Name() string
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}
