package nl

import "github.com/podweft/podweft"

// wrapList names what could not be listed.
func wrapList(what string, err error) error {
	if err == nil {
		return nil
	}
	return &podweft.OpError{Op: "list", Object: podweft.Named(what), Err: err}
}
