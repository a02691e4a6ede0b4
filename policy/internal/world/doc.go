// Package world sends real packets through a small cluster of network namespaces, for tests of those who enforce policies: what
// arrives there must be what the policies say. It knows nobody who enforces; each test brings its own as a [Keeper].
package world
