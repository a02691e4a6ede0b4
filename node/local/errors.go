package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/podweft/podweft"
)

// The answers that a plugin can branch on with errors.Is, beside podweft.ErrInvalid for what makes no sense. A [Handler]
// returns them, wrapped in what it knows, and the plugin gets them with that text.
var (
	// ErrNoAgent: nobody listens. A plugin whose network works without an agent goes on; others try again later.
	ErrNoAgent = errors.New("no agent is listening")
	// ErrTryAgain: not now. The agent is starting, stopping or waiting for something; nothing is known to be wrong.
	ErrTryAgain = errors.New("try again later")
	// ErrHungUp: the agent was ended before it had answered, and may have done what it was asked or not. It is an ErrTryAgain, and
	// the only one that says nothing about the agent that comes next: ask that the same.
	ErrHungUp = fmt.Errorf("%w: the agent hung up", ErrTryAgain)
	// ErrExhausted: there is no address to be had.
	ErrExhausted = errors.New("no free address")
	// ErrVersion: plugin and agent do not understand each other. One of them is to be updated.
	ErrVersion = errors.New("another version of the protocol")
	// ErrForbidden: the other side runs as a user who is neither root nor this one.
	ErrForbidden = errors.New("not permitted to this user")
)

// codes are the sentinels as they stand in an answer. What is none of them is codeFailed.
var codes = [...]struct {
	code string
	err  error
}{
	{"again", ErrTryAgain},
	{"exhausted", ErrExhausted},
	{"invalid", podweft.ErrInvalid},
	{"version", ErrVersion},
	{"forbidden", ErrForbidden},
}

const codeFailed = "failed"

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return "again"
	}
	return codeFailed
}

// answer is an error as the agent told it.
type answer struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

func (a *answer) Error() string { return "agent: " + a.Text }

// Is reports whether target is what the code stands for.
func (a *answer) Is(target error) bool {
	for _, c := range codes {
		if c.code == a.Code {
			return target == c.err
		}
	}
	return false
}
