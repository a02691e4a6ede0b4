package subnet

import (
	"log/slog"
	"sync"
)

// health is how something that is tried again and again is doing. It logs when trouble begins, changes and ends, not with
// each try. It is safe for concurrent use.
type health struct {
	logger *slog.Logger
	what   string // "subnet watch"

	mu  sync.Mutex
	err error
}

func newHealth(l *slog.Logger, what string) *health {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &health{logger: l, what: what}
}

// report takes the outcome of a try.
func (h *health) report(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil && (h.err == nil || h.err.Error() != err.Error()):
		h.logger.Warn(h.what+" fails", "err", err)
	case err == nil && h.err != nil:
		h.logger.Info(h.what + " works again")
	}
	h.err = err
}

// last returns the last try's error.
func (h *health) last() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}
