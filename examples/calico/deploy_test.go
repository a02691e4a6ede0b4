package calico

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/kube"
)

// manifest is what is in deploy/podweft-calico.yml, by kinds.
type manifest map[string]string

func readManifest(t *testing.T) manifest {
	t.Helper()
	text, err := os.ReadFile("deploy/podweft-calico.yml")
	require.NoError(t, err)
	m := manifest{}
	for r := documents.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		one, err := r.Read()
		if errors.Is(err, io.EOF) {
			return m
		}
		require.NoError(t, err)
		var head struct{ Kind string }
		require.NoError(t, yaml.Unmarshal(one, &head))
		if head.Kind != "" {
			require.NotContains(t, m, head.Kind)
			m[head.Kind] = string(one)
		}
	}
}

// into reads the one object of a kind, and knows all of its fields.
func (m manifest) into(t *testing.T, kind string, o any) {
	t.Helper()
	require.Contains(t, m, kind)
	require.NoError(t, yaml.UnmarshalStrict([]byte(m[kind]), o))
}

// TestManifest: what the manifest names is there: flags, variables, files, the kind of blocks.
func TestManifest(t *testing.T) {
	m := readManifest(t)
	assert.YAMLEq(t, kube.BlockDefinition(), m["CustomResourceDefinition"])
	var set appsv1.DaemonSet
	m.into(t, "DaemonSet", &set)
	var config corev1.ConfigMap
	m.into(t, "ConfigMap", &config)
	pod := set.Spec.Template.Spec
	volumes := map[string]corev1.Volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
	}
	host := func(c corev1.Container, path string) string { // where a file of the container's is on the node
		for _, mount := range c.VolumeMounts {
			if mount.MountPath == path || strings.HasPrefix(path, mount.MountPath+"/") {
				require.NotNil(t, volumes[mount.Name].HostPath, path)
				return volumes[mount.Name].HostPath.Path + strings.TrimPrefix(path, mount.MountPath)
			}
		}
		return ""
	}

	install := pod.InitContainers[0]
	o, words, err := ParseOptions(install.Command[1:], func(string) string { return "" }, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []string{"install"}, words)
	assert.Equal(t, "/opt/cni/bin", host(install, o.install.binDir))
	image, err := os.ReadFile("deploy/rootfs")
	require.NoError(t, err)
	assert.Contains(t, string(image), `"$dir`+o.install.plugin+`"`)
	assert.Contains(t, string(image), `"$dir`+install.Command[0]+`"`)

	agent := pod.Containers[0]
	assert.Equal(t, install.Command[:1], agent.Command)
	objects := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(config.Data["calico.yaml"]), 0o600))
	args := slices.Clone(agent.Args)
	i := slices.Index(args, "--config=/etc/podweft/calico.yaml")
	require.GreaterOrEqual(t, i, 0)
	args[i] = "--config=" + objects
	env := map[string]string{}
	for _, v := range agent.Env {
		assert.True(t, slices.ContainsFunc(settings, func(s struct{ flag, variable, otherwise, help string }) bool { return s.variable == v.Name }), v.Name)
		env[v.Name] = v.Value
		if v.ValueFrom != nil {
			assert.Equal(t, "spec.nodeName", v.ValueFrom.FieldRef.FieldPath)
			env[v.Name] = "worker-1"
		}
	}
	o, words, err = ParseOptions(append(args, "--kube-api-url=http://192.0.2.1"), func(name string) string { return env[name] }, io.Discard)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, o.Close()) })
	require.NoError(t, o.Config.Validate())
	assert.Empty(t, words)
	assert.Equal(t, "worker-1", o.Config.Node)
	assert.NotNil(t, o.Config.Policies)
	assert.True(t, o.cluster.internalIP)
	require.Len(t, o.Config.Pools, 1)
	assert.Equal(t, CrossSubnet, o.Config.Pools[0].VXLAN)
	assert.Equal(t, "/etc/cni/net.d", filepath.Dir(host(agent, o.Config.CNIConf)))
	assert.Equal(t, cniplugin.DefaultStateDir, host(agent, o.Config.withDefaults().StateDir))
	for _, probe := range []*corev1.Probe{agent.LivenessProbe, agent.ReadinessProbe} {
		assert.Equal(t, o.Healthz, probe.HTTPGet.Host+":"+probe.HTTPGet.Port.String())
	}
	assert.Equal(t, set.Spec.Selector.MatchLabels, set.Spec.Template.Labels)
	assert.True(t, pod.HostNetwork)
}

// TestManifestRights: those that the stores' comments name, and no more.
func TestManifestRights(t *testing.T) {
	m := readManifest(t)
	var account corev1.ServiceAccount
	m.into(t, "ServiceAccount", &account)
	var all rbacv1.ClusterRole
	var binding rbacv1.ClusterRoleBinding
	var role rbacv1.Role
	var bound rbacv1.RoleBinding
	m.into(t, "ClusterRole", &all)
	m.into(t, "ClusterRoleBinding", &binding)
	m.into(t, "Role", &role)
	m.into(t, "RoleBinding", &bound)
	assert.Equal(t, []string{all.Name, role.Name}, []string{binding.RoleRef.Name, bound.RoleRef.Name})
	assert.Equal(t, binding.Subjects, bound.Subjects)
	assert.Equal(t, []string{account.Name, account.Namespace}, []string{bound.Subjects[0].Name, bound.Subjects[0].Namespace})
	assert.Equal(t, electionNamespace, role.Namespace)
	rights := map[string][]string{}
	for _, rule := range slices.Concat(all.Rules, role.Rules) {
		for _, resource := range rule.Resources {
			rights[strings.TrimPrefix(rule.APIGroups[0]+"/"+resource, "/")] = rule.Verbs
		}
	}
	watched := []string{"list", "watch"}
	want, err := json.Marshal(map[string][]string{
		"nodes": watched, "namespaces": watched, "pods": watched, "nodes/status": {"patch"},
		"networking.k8s.io/networkpolicies": watched, "policy.networking.k8s.io/clusternetworkpolicies": watched,
		"podweft.github.io/blocks":   {"list", "watch", "create", "update", "delete"},
		"coordination.k8s.io/leases": {"get", "create", "update"},
	})
	require.NoError(t, err)
	got, err := json.Marshal(rights)
	require.NoError(t, err)
	assert.JSONEq(t, string(want), string(got))
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	plugin, bin := filepath.Join(dir, "plugin"), filepath.Join(dir, "cni", "bin")
	for _, version := range []string{"one", "two"} {
		require.NoError(t, os.WriteFile(plugin, []byte(version), 0o600))
		var stderr strings.Builder
		require.Zero(t, Main([]string{"install", "--cni-plugin=" + plugin, "--cni-bin-dir=" + bin}, io.Discard, &stderr), stderr.String())
		for _, name := range []string{"podweft-cni", "loopback"} {
			got, err := os.ReadFile(filepath.Join(bin, name))
			require.NoError(t, err)
			assert.Equal(t, version, string(got))
		}
	}
	info, err := os.Stat(filepath.Join(bin, "podweft-cni"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode(), "runtimes execute it")
	var stderr strings.Builder
	assert.Equal(t, 1, Main([]string{"install", "--cni-plugin=" + dir + "/none", "--cni-bin-dir=" + bin}, io.Discard, &stderr))
	assert.Contains(t, stderr.String(), "no such file")
}
