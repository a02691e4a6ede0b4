package sabotage_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// noted is a test whose failures are kept instead.
type noted struct {
	testing.TB
	errors []string
}

func (n *noted) Error(args ...any) { n.errors = append(n.errors, fmt.Sprint(args...)) }
func (n *noted) Errorf(format string, args ...any) {
	n.errors = append(n.errors, fmt.Sprintf(format, args...))
}

func TestStopwatch(t *testing.T) {
	node := testnet.NewNode(t, "n")
	quick := &noted{TB: t}
	sabotage.Start(quick, node).RequireBack(quick)
	assert.Empty(t, quick.errors)

	late := &noted{TB: t}
	watch := sabotage.Start(late, node)
	assert.Eventually(t, func() bool { return watch.Elapsed() > sabotage.Limit() }, time.Minute, 10*time.Millisecond,
		"a control that nobody disturbs gets through")
	watch.RequireBack(late)
	require.Len(t, late.errors, 1)
	assert.Contains(t, late.errors[0], "only")
}
