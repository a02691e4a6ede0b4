package podweft

import "reflect"

// untied returns the parts of err, which came with plan, that are tied to none of its changes: a dump that failed, say.
func untied(err error, plan Plan) []error {
	if err == nil {
		return nil
	}
	tied := map[error]bool{ErrHeld: true}
	for _, err := range plan.Failed() {
		if reflect.ValueOf(err).Comparable() { // anything else would panic as a key
			tied[err] = true
		}
	}
	rest, _ := without(err, tied)
	return rest
}

// without takes an error tree apart as far as is needed to remove the tied ones, and reports whether there were any.
func without(err error, tied map[error]bool) (rest []error, found bool) {
	if reflect.ValueOf(err).Comparable() && tied[err] {
		return nil, true
	}
	for _, inner := range unwrap(err) {
		part, ok := without(inner, tied)
		rest = append(rest, part...)
		found = found || ok
	}
	if !found {
		return []error{err}, false
	}
	return rest, true
}

func unwrap(err error) []error {
	switch err := err.(type) {
	case interface{ Unwrap() []error }:
		return err.Unwrap()
	case interface{ Unwrap() error }:
		if inner := err.Unwrap(); inner != nil {
			return []error{inner}
		}
	}
	return nil
}
