package flannel

import (
	"context"
	"flag"
	"log/slog"
	"slices"
)

// idle is a flag of flanneld's that changes nothing here, and is there so that a command line of flanneld's works as it is.
type idle struct {
	name    string
	boolean bool
	why     string // it changes nothing
}

var idles = []idle{
	{"subnet-lease-renew-margin", false, "a lease is renewed before a third of its time is over"},
	{"iptables-resync", false, "rules are put right as soon as somebody has changed them"},
	{"ip-masq-fully-random-disable", true, "masquerading always takes ports at random"},
	{"ip-blackhole-route", true, "no such route is made"},
	{"vmodule", false, "--log-level is for all of the daemon"},
	{"log_backtrace_at", false, "no stack is logged"},
}

func (o *Options) idleFlags(f *flag.FlagSet) {
	for _, i := range idles {
		f.Var(idleFlag{i, o}, i.name, "flanneld's; changes nothing here: "+i.why)
	}
}

// tellIdle says which flags that were given change nothing.
func (o *Options) tellIdle(ctx context.Context, log *slog.Logger) {
	for _, i := range o.idle {
		log.InfoContext(ctx, "a flag changes nothing here", "flag", i.name, "why", i.why)
	}
}

// idleFlag notes that one was given.
type idleFlag struct {
	idle
	of *Options
}

// String implements flag.Value.
func (f idleFlag) String() string { return "" }

// IsBoolFlag says whether it needs no value: see flag.Value.
func (f idleFlag) IsBoolFlag() bool { return f.boolean }

// Set implements flag.Value.
func (f idleFlag) Set(text string) error {
	known := slices.ContainsFunc(f.of.idle, func(i idle) bool { return i.name == f.name })
	if !known && (!f.boolean || text != "false") {
		f.of.idle = append(f.of.idle, f.idle)
	}
	return nil
}
