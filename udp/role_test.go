package udp_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// roleVar makes the test binary something else: a role and its arguments.
const roleVar = "PODWEFT_UDP_ROLE"

// roles are what the test binary can be. Each is ready when it writes its first line, and answers every line that it reads.
var roles = map[string]func(args []string) error{
	"one-by-one":  forwardOneByOne,
	"floor":       forwardFloor,
	"tcp-send":    sendTCP,
	"tcp-receive": receiveTCP,
	"udp-send":    sendUDP,
	"udp-receive": receiveUDP,
	"ping":        pingMany,
}

func runRole(spec string) int {
	args := strings.Fields(spec)
	if err := roles[args[0]](args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, args[0], err)
		return 1
	}
	return 0
}

// obeyRole tells the parent that the role is ready, and answers each line.
func obeyRole(answer func(order string) string) error {
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		fmt.Println(answer(orders.Text()))
	}
	return nil
}

// actor is a process that plays a role in a node.
type actor struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

func act(t testing.TB, n *testnet.Node, role ...string) *actor {
	t.Helper()
	a := &actor{cmd: n.Command(t.Context(), "/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), roleVar+"="+strings.Join(role, " "))
	a.cmd.Stderr = os.Stderr
	var err error
	a.orders, err = a.cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := a.cmd.StdoutPipe()
	require.NoError(t, err)
	a.answers = bufio.NewReader(answers)
	require.NoError(t, a.cmd.Start())
	_, err = a.answers.ReadString('\n')
	require.NoError(t, err, "%v has ended", role)
	return a
}

// ask sends a line and returns the answer.
func (a *actor) ask(t testing.TB, order string) string {
	t.Helper()
	_, err := fmt.Fprintln(a.orders, order)
	require.NoError(t, err)
	answer, err := a.answers.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(answer)
}

// end ends the process.
func (a *actor) end() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// number asks for a number.
func (a *actor) number(t testing.TB) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(a.ask(t, "how much"), 64)
	require.NoError(t, err)
	return v
}

func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
