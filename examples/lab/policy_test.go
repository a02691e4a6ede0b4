package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
)

// TestPolicies: the first pod is the one that is selected. With the policy in force nobody reaches it, and then those do who have
// got the labels.
func TestPolicies(t *testing.T) {
	tests := []struct {
		file string
		// who reaches pod1a, after the policy and after the labels; everybody reaches everybody else
		after, labelled string
	}{
		{"testdata/pods.yaml", "", "pod2a"},
		{"testdata/namespace-or-pods.yaml", "", "pod2a pod3a"},
		{"testdata/namespace-and-pods.yaml", "", "pod2a"},
		{"testdata/block-or-pods.yaml", "", "pod2a"},
	}
	for _, test := range tests {
		t.Run(test.file, func(t *testing.T) {
			reports := policyReports(t, "--policy", test.file)
			require.Len(t, reports, 3)
			for i, want := range []struct{ step, reach string }{{before, "pod1b pod2a pod2b pod3a pod3b"}, {after, test.after}, {labelled, test.labelled}} {
				got := reports[i]
				assert.Equal(t, want.step, got.Step)
				assert.Equal(t, uint16(80), got.Port)
				assert.Equal(t, 60, got.Calls, "of 6 pods, in 2 families")
				denied := []callReport{}
				for _, from := range []string{"pod1b", "pod2a", "pod2b", "pod3a", "pod3b"} {
					if !strings.Contains(want.reach, from) {
						denied = append(denied, callReport{from, "pod1a", "IPv4"}, callReport{from, "pod1a", "IPv6"})
					}
				}
				assert.Equal(t, denied, got.Denied, want.step)
			}
		})
	}
}

// TestPoliciesWithPods: the lab's pods play those of the file, one of each node after the other.
func TestPoliciesWithPods(t *testing.T) {
	reports := policyReports(t, "--policy", "testdata/shop.yaml", "--nodes", "2")
	require.Len(t, reports, 2, "nobody has to be labelled")
	assert.Empty(t, reports[0].Denied)
	assert.Equal(t, uint16(5432), reports[1].Port)
	var denied []callReport
	for _, pair := range [][2]string{{"pod1a", "pod2a"}, {"pod1b", "pod1a"}, {"pod1b", "pod2a"}, {"pod2b", "pod1a"}, {"pod2b", "pod2a"}} {
		denied = append(denied, callReport{pair[0], pair[1], "IPv4"}, callReport{pair[0], pair[1], "IPv6"})
	}
	assert.Equal(t, denied, reports[1].Denied, "web alone calls the db, and nobody calls web")
}

func policyReports(t *testing.T, args ...string) []policyReport {
	t.Helper()
	p := newProgram(t, append(args, "--json")...)
	require.Equal(t, exitGood, p.run(t), "%s%s", &p.stdout, &p.stderr)
	var r report
	require.NoError(t, json.Unmarshal(p.stdout.Bytes(), &r))
	p.nothingLeft(t)
	return r.Policy
}

func TestPolicyShell(t *testing.T) {
	p := newProgram(t, "--policy", "testdata/namespace-and-pods.yaml", "--nodes", "2", "--keep")
	p.cmd.Stdin = strings.NewReader(strings.Join([]string{
		"echo; echo '[allowed]'; lab why pod2a pod1a",
		"echo '[label]'; lab label pod2a role-; echo status $?",
		"echo '[denied]'; lab why pod2a pod1a 80",
		"echo '[policy]'; lab policy; echo status $?",
		"echo '[namespace]'; lab label pod1b role=client; lab label ns/default team=a; lab policy",
		"echo '[port]'; lab why pod2a pod1a http 2>&1; echo status $?",
		"echo '[nobody]'; lab label pod9z a=b 2>&1; echo status $?",
		"echo '[nowhere]'; lab label ns/nowhere a=b 2>&1; echo status $?",
		"echo '[no label]'; lab label pod1a role 2>&1; echo status $?",
		"echo '[end]'; false",
	}, "\n"))
	require.Equal(t, exitGood, p.run(t), "%s%s", &p.stdout, &p.stderr)
	assert.Contains(t, p.stdout.String(), "lab label ns/a team=a\n")
	assert.Contains(t, p.stdout.String(), "lab label pod2a role=client\n")
	parts := sections(p.stdout.String())
	wants := map[string][]string{
		"allowed": {"TCP 80: allowed", "fd00:244:", "allowed by policy default/web, ingress[0].from[0], pods role=client in namespaces team=a"},
		"label":   {"status 0"},
		"denied":  {"TCP 80: denied", "is none of: pods role=client in namespaces team=a"},
		"policy":  {"a/pod2a                 team=a", "pod2a  ✗   ●   ·   ●", "status 0"},
		"namespace": {
			"pod1b  default/pod1b  role=client  team=a", "pod1b  ●   ·   ●   ●", "pod2a  ✗   ●   ·   ●",
		},
		"port":     {`"http" is not a port`, "status 2"},
		"nobody":   {`there is no pod "pod9z"`, "status 2"},
		"nowhere":  {`there is no namespace "nowhere"`, "status 2"},
		"no label": {`"role" is not a label`, "status 2"},
	}
	for name, want := range wants {
		for _, w := range want {
			assert.Contains(t, parts[name], w, name)
		}
	}
	p.nothingLeft(t)
}

func TestPolicyFiles(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"missing", []string{"--policy", "testdata/nothing.yaml"}, "--policy: open testdata/nothing.yaml: no such file or directory"},
		{"twice", []string{"--policy", "testdata/pods.yaml", "testdata/block-or-pods.yaml"}, "policy default/web: is there twice"},
		{"no policy", []string{"--policy", "net-conf.json"}, "kind: is missing"},
		{"too many", []string{"--policy", "testdata/pods.yaml", "--pods", "9"}, "are more than a picture of policies shows: use 24 pods in all, or fewer"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.args)
			require.ErrorContains(t, err, test.want)
		})
	}
	o, err := parse([]string{"--policy", "testdata/pods.yaml", "testdata/shop.yaml"})
	require.NoError(t, err)
	assert.Len(t, o.policies.Policies, 2)
}

func TestTooFewPods(t *testing.T) {
	p := newProgram(t, "--policy", "testdata/namespace-or-pods.yaml", "--nodes", "2", "--pods", "1")
	assert.Equal(t, exitFailed, p.run(t))
	assert.Contains(t, p.stderr.String(), "--pods: are too few: the policies and their peers are about 3 pods: use 2 or more, on 2 nodes")
}

func TestSatisfy(t *testing.T) {
	s := policy.Selector{
		MatchLabels: map[string]string{"app": "web"},
		MatchExpressions: []policy.Requirement{
			{Key: "tier", Operator: policy.In, Values: []string{"a", "b"}}, {Key: "any", Operator: policy.Exists},
			{Key: "none", Operator: policy.DoesNotExist}, {Key: "zone", Operator: policy.NotIn, Values: []string{"x"}},
		},
	}
	labels := satisfy(s)
	assert.Equal(t, "any=yes,app=web,tier=a", labelText(labels))
	assert.True(t, s.Matches(labels))
}

func TestDisputed(t *testing.T) {
	calls := []call{{seen: policy.Denied, due: policy.Denied}, {seen: policy.Allowed, due: policy.Denied, packet: policy.Packet{Protocol: policy.TCP, Port: 80}}}
	assert.EqualError(t, disputed(calls), "invalid IP -> invalid IP TCP 80 is allowed, and should be denied")
	assert.NoError(t, disputed(calls[:1]))
}
