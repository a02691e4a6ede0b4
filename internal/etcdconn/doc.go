// Package etcdconn is how the Stores in etcd reach it: the same settings, the same patience with a connection that is lost, the
// same long listings in pages.
//
// It knows nothing of what is kept there.
package etcdconn
