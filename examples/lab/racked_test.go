package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseRacked(t *testing.T) {
	assert.True(t, isRacked([]string{"--keep", "--network", "calico"}))
	assert.True(t, isRacked([]string{"-network=calico"}))
	assert.False(t, isRacked([]string{"--network"}))
	assert.False(t, isRacked([]string{"--nodes", "3"}))
	o, err := parseRacked([]string{"--network=calico", "--nodes", "3", "--vxlan=Always", "--routes=store", "--no-color"})
	require.NoError(t, err)
	assert.Equal(t, rackedOptions{nodes: 3, pods: 1, routes: "store", vxlan: "Always"}, o)
	for want, args := range map[string][]string{
		"--nodes: 0 is out of range":           {"--nodes", "0"},
		"--routes: guess is no source":         {"--routes", "guess"},
		"--vxlan: Never is no mode":            {"--vxlan", "Never"},
		`there is no command "x"`:              {"x"},
		"use 24 pods in all, or fewer":         {"--pods", "7", "--policy", "testdata/shop.yaml"},
		"flag provided but not defined: -ipip": {"-ipip"},
	} {
		_, err := parseRacked(args)
		assert.ErrorContains(t, err, want)
	}
	o, err = parseRacked([]string{"--network=calico", "--policy", "testdata/shop.yaml", "testdata/pods.yaml"})
	require.NoError(t, err)
	assert.Len(t, o.policies.Policies, 2)
	_, err = parseRacked([]string{"--help"})
	require.ErrorIs(t, err, flag.ErrHelp)
}

// TestInStep: the stages that both ways have stand opposite each other.
func TestInStep(t *testing.T) {
	near := []string{stagePod, stagePod, stageNode, stageWire, stageWire, stageNode, stagePod}
	far := []string{stagePod, stageNode, stageTunnel, stageWire, stageRouter, stageRouter, stageWire, stageTunnel, stageNode, stagePod}
	var got []string
	for _, run := range inStep(near, far) {
		got = append(got, run.stage)
		assert.LessOrEqual(t, run.left[0], run.left[1])
	}
	assert.Equal(t, []string{stagePod, stageNode, stageTunnel, stageWire, stageRouter, stageWire, stageTunnel, stageNode, stagePod}, got)
	last := inStep(near, far)[8]
	assert.Equal(t, [2]int{6, 7}, last.left)
	assert.Equal(t, [2]int{9, 10}, last.right)
}

// builtCalico is podweft-calico, built for the test.
func builtCalico(t *testing.T) string {
	t.Helper()
	agent := filepath.Join(t.TempDir(), "podweft-calico")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", agent, "github.com/podweft/podweft/examples/cmd/podweft-calico").CombinedOutput()
	require.NoError(t, err, string(out))
	return agent
}

func newRacked(t *testing.T, agent string, args ...string) *program {
	t.Helper()
	p := newProgram(t, append([]string{"--network", "calico"}, args...)...)
	p.cmd.Env = append(p.cmd.Env, calicoVar+"="+agent)
	return p
}

// TestRackedTour takes the whole tour, over BGP.
func TestRackedTour(t *testing.T) {
	agent := builtCalico(t)
	before := hostState(t)
	p := newRacked(t, agent)
	require.Zero(t, p.run(t), p.stderr.String()+p.stdout.String())
	for _, want := range []string{
		"2 racks of 2 nodes", "node4", "direct", "vxlan", "4 of 4 BGP sessions of node1 are up",
		"pod4a", "✓ 32 of 32 pings answered", "via 169.254.1.1 dev eth0", "via 192.0.2.2 dev eth0", "dev podweft-vxlan onlink",
		"192.0.2.1 > 198.51.100.2:4789, VNI 4096", "router rack2 ✓", "The first call, from pod4a, is denied", "leaves nothing behind",
	} {
		assert.Contains(t, p.stdout.String(), want)
	}
	assert.NotContains(t, p.stdout.String(), "✗ nothing")
	assert.Equal(t, before, hostState(t))
	p.nothingLeft(t)
}

// TestRackedPolicies: the tutorials' policies as the agents have them in force. With the policy nobody reaches the pod that it selects,
// and then those do who have got the labels; everybody else reaches everybody, in both families.
func TestRackedPolicies(t *testing.T) {
	agent := builtCalico(t)
	for i, labelled := range []string{"pod2a", "pod2a pod3a", "pod2a", "pod2a"} { // who reaches pod1a in the end
		file := fmt.Sprintf("../../kube/netpol/testdata/tutorial-%d.yaml", i+1)
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := newRacked(t, agent, "--routes", "store", "--policy", file)
			require.Zero(t, p.run(t), "%s%s", &p.stdout, &p.stderr)
			_, text, found := strings.Cut(p.stdout.String(), "with no policy in force:")
			require.True(t, found, "%s", &p.stdout)
			first, text, found := strings.Cut(text, "Now the policies are compiled")
			require.True(t, found, text)
			second, third, found := strings.Cut(text, "Then peers get the labels")
			require.True(t, found, text)
			for _, step := range []struct{ text, reach string }{{first, "pod2a pod3a pod4a"}, {second, ""}, {third, labelled}} {
				for _, row := range []struct{ from, others string }{{"pod2a", "·   ●   ●"}, {"pod3a", "●   ·   ●"}, {"pod4a", "●   ●   ·"}} {
					mark := "✗"
					if strings.Contains(step.reach, row.from) {
						mark = "●"
					}
					assert.Contains(t, step.text, row.from+"  "+mark+"   "+row.others+"\n")
				}
				assert.Contains(t, step.text, "pod1a  ·   ●   ●   ●\n")
			}
			p.nothingLeft(t)
		})
	}
}

// TestRackedPolicyShell: pods play those of the file, which has policies of two kinds, and labels that are put on by hand count.
func TestRackedPolicyShell(t *testing.T) {
	p := newRacked(t, builtCalico(t), "--routes=store", "--keep", "--policy", "testdata/shop.yaml")
	p.cmd.Stdin = strings.NewReader(strings.Join([]string{
		"echo; echo '[played]'; lab policy; echo status $?",
		"lab label pod3a app=web; echo '[labelled]'; lab policy; echo status $?",
		"echo '[end]'; false",
	}, "\n"))
	require.Zero(t, p.run(t), "%s%s", &p.stdout, &p.stderr)
	parts := sections(p.stdout.String())
	for name, want := range map[string][]string{
		"played":   {"pod1a  shop/db     app=db", "pod2a  shop/web    app=web", "pod2a  ●   ·   ●   ●", "pod3a  ✗   ✗   ·   ●", "status 0"},
		"labelled": {"pod3a  shop/pod3a  app=web", "pod3a  ●   ✗   ·   ●", "pod4a  ✗   ✗   ✗   ·", "status 0"},
	} {
		for _, w := range want {
			assert.Contains(t, parts[name], w, name)
		}
	}
	p.nothingLeft(t)
}

// TestPolicyObjects: what the lab tells of itself is left out, in lists too, and what is a policy stays.
func TestPolicyObjects(t *testing.T) {
	objects, err := policyObjects([]byte(`# nothing
---
{kind: Pod}
---
{kind: List, items: [{kind: Namespace}, {kind: NetworkPolicy, metadata: {name: a}}]}
---
{kind: NetworkPolicyList, items: [{metadata: {name: b}}]}
`))
	require.NoError(t, err)
	got, err := json.Marshal(objects)
	require.NoError(t, err)
	want := `[{"kind":"NetworkPolicy","metadata":{"name":"a"}}, {"kind":"NetworkPolicyList","items":[{"metadata":{"name":"b"}}]}]`
	assert.JSONEq(t, want, string(got))
}
