package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/dirwatch"
	"github.com/podweft/podweft/internal/word"
	"github.com/podweft/podweft/nat"
)

// masqueradeRecords is a directory with a file for each network whose pods are masqueraded, which has its name and says what for. The
// plugin writes it when it changes the table, and holds the lock; the Agent goes by it.
type masqueradeRecords struct{ dir, boot string }

// masqueradeDraft begins the name of a file that is being written; no network's does.
const masqueradeDraft = ".new-"

// The words that begin a line of a record. The stamp is that of the table that was made of it (see nat.Driver), and missing before.
const (
	recordedBoot   = "boot"
	recordedStamp  = "stamp"
	recordedSource = "masquerade"
	recordedExempt = "exempt"
)

// text is a record. The same is the same text.
func (r masqueradeRecords) text(stamp string, spec nat.Spec) string {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + " " + value + "\n") }
	line(recordedBoot, r.boot)
	line(recordedStamp, stamp)
	for _, p := range spec.Masquerade {
		line(recordedSource, p.String())
	}
	for _, p := range spec.Exempt {
		line(recordedExempt, p.String())
	}
	return b.String()
}

// has reports whether that is what is recorded.
func (r masqueradeRecords) has(network, stamp string, spec nat.Spec) bool {
	have, err := os.ReadFile(filepath.Join(r.dir, network))
	return err == nil && string(have) == r.text(stamp, spec)
}

// put replaces a network's record, at one stroke. The caller holds the lock.
func (r masqueradeRecords) put(network, stamp string, spec nat.Spec) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	draft := filepath.Join(r.dir, masqueradeDraft+network)
	if err := os.WriteFile(draft, []byte(r.text(stamp, spec)), 0o600); err != nil {
		return err
	}
	return os.Rename(draft, filepath.Join(r.dir, network))
}

// errBadRecord: what is recorded makes no sense, and will not before it is written anew.
var errBadRecord = errors.New("damaged record")

// get returns what is recorded for a network. The error is fs.ErrNotExist where nothing is, or nothing of this boot.
func (r masqueradeRecords) get(network string) (spec nat.Spec, err error) {
	path := filepath.Join(r.dir, network)
	text, err := os.ReadFile(path)
	if err != nil {
		return spec, err
	}
	boot := ""
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		var p netip.Prefix
		switch key {
		case recordedBoot:
			boot = value
		case recordedStamp:
		case recordedSource:
			p, err = netip.ParsePrefix(value)
			spec.Masquerade = append(spec.Masquerade, p)
		case recordedExempt:
			p, err = netip.ParsePrefix(value)
			spec.Exempt = append(spec.Exempt, p)
		default:
			err = fmt.Errorf("%q is no line of a record", line)
		}
		if err != nil {
			return nat.Spec{}, fmt.Errorf("%w: %s: %w", errBadRecord, path, err)
		}
	}
	if boot != r.boot {
		return nat.Spec{}, fmt.Errorf("%s is of another boot: %w", path, fs.ErrNotExist)
	}
	return spec, nil
}

// networks are those that have a record.
func (r masqueradeRecords) networks() (names []string, err error) {
	entries, err := os.ReadDir(r.dir)
	for _, e := range entries {
		if word.Valid(e.Name(), maxNetwork) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// recordedMasquerade is a driver that applies what is recorded while it holds the plugins' lock: one of them may be about to change it,
// or to put back itself what it finds gone. A network without a record is left as it is.
type recordedMasquerade struct {
	*nat.Driver
	agent   *Agent
	network string
}

// Apply implements podweft.Driver.
func (m recordedMasquerade) Apply(ctx context.Context, _ nat.Spec) (plan podweft.Plan, err error) {
	err = locked(ctx, lockWait, m.agent.cfg.StateDir+"/masquerade.lock", func() error {
		spec, err := m.agent.masqueraded.get(m.network)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			plan, err = m.Driver.Apply(ctx, spec)
		}
		return err
	})
	return plan, err
}

// keepMasquerading keeps the table of each network that has a record, until ctx ends.
func (a *Agent) keepMasquerading(ctx context.Context) error {
	if err := os.MkdirAll(a.masqueraded.dir, 0o700); err != nil {
		return err
	}
	draft := func(name string) bool { return strings.HasPrefix(name, masqueradeDraft) }
	dirwatch.Run(ctx, a.masqueraded.dir, draft, func() {
		for !a.masqueradeAll(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(masqueradeAgain):
			}
		}
	})
	return nil
}

// masqueradeAgain is when networks are looked at again that could not be kept.
const masqueradeAgain = time.Second

// masqueradeAll has the tables of all networks kept that have a record, and reports whether they are, as far as their records can be read.
func (a *Agent) masqueradeAll(ctx context.Context) bool {
	names, err := a.masqueraded.networks()
	if err != nil {
		a.log.WarnContext(ctx, "what to masquerade is not read", "err", err)
	}
	whole := err == nil
	for _, name := range names {
		if err := a.masquerade(name); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "masquerading is not kept", "network", name, "err", err)
			whole = whole && errors.Is(err, errBadRecord)
		}
	}
	return whole
}

// masquerade has a network's table kept as is recorded.
func (a *Agent) masquerade(network string) error {
	spec, err := a.masqueraded.get(network)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.network(network)
	if err != nil {
		return err
	}
	if n.masquerade == nil {
		if n.masquerade, err = nat.New(nat.Config{Owner: network, NetNS: a.cfg.NetNS, Logger: a.log}); err != nil {
			return err
		}
		n.masquerading = podweft.NewLoop(recordedMasquerade{n.masquerade, a, network}, podweft.LoopConfig{Logger: a.log})
		a.group.Go(func() error { return n.masquerading.Run(a.ctx) })
	} else if slices.Equal(spec.Masquerade, n.masqueraded.Masquerade) && slices.Equal(spec.Exempt, n.masqueraded.Exempt) {
		return nil
	}
	n.masqueraded = spec
	n.masquerading.Set(spec)
	return nil
}
