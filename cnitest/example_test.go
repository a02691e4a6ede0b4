package cnitest_test

import (
	"errors"
	"fmt"

	"github.com/podweft/podweft/cnitest"
)

// A result is a line for people.
func ExampleResult() {
	rule := cnitest.Rules()[0]
	fmt.Println(cnitest.Result{Rule: rule})
	fmt.Println(cnitest.Result{Rule: rule, Err: errors.New("exit code 1")})
	// Output:
	// ok    V1  VERSION needs no other variable, and lists the versions that are supported (2 VERSION)
	// FAIL  V1  VERSION needs no other variable, and lists the versions that are supported (2 VERSION): exit code 1
}
