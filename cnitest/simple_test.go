package cnitest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/cnitest"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/testnet"
)

// simple is a plugin as somebody writes his first: ADD and DEL, addresses of its own, and a fault if its configuration has one.
func simple() (code int) {
	var conf struct {
		Dir   string `json:"dir"`
		Fault string `json:"fault"`
	}
	err := json.NewDecoder(os.Stdin).Decode(&conf)
	if err == nil {
		switch os.Getenv("CNI_COMMAND") {
		case "VERSION":
			fmt.Println(`{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}`)
		case "ADD":
			err = simpleAdd(conf.Dir, conf.Fault)
		case "DEL":
			err = simpleDel(conf.Dir, conf.Fault == "leak")
		}
	}
	if err != nil {
		raw, _ := json.Marshal(types.NewError(types.ErrInternal, err.Error(), ""))
		fmt.Println(string(raw))
		return 1
	}
	return 0
}

func simpleParts(dir string) (*ipam.Pool, *bridge.Attacher, bridge.Port, error) {
	pool, err := ipam.Open(ipam.Config{Path: filepath.Join(dir, "ipam"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/28")}})
	pods, errPods := bridge.New(bridge.Config{})
	port := bridge.Port{Container: os.Getenv("CNI_CONTAINERID"), NetNS: os.Getenv("CNI_NETNS"), Name: os.Getenv("CNI_IFNAME")}
	return pool, pods, port, errors.Join(err, errPods)
}

func simpleAdd(dir, fault string) (err error) {
	ctx := context.Background()
	pool, pods, port, err := simpleParts(dir)
	if err != nil {
		return err
	}
	held, err := pool.Allocate(ctx, ipam.Owner{Container: port.Container})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && fault != "undo" {
			err = errors.Join(err, simpleDel(dir, false))
		}
	}()
	address := held.Addresses[0]
	port.Addresses = []netip.Prefix{address.Prefix}
	at, err := pods.Attach(ctx, bridge.Bridge{Name: "simple0", Gateways: []netip.Prefix{netip.PrefixFrom(address.Gateway, 28)}}, port)
	if err != nil {
		return err
	}
	if fault == "gateway" {
		address.Gateway = address.Prefix.Addr()
	}
	if fault == "stdout" {
		fmt.Println("attached")
	}
	return types.PrintResult(&types100.Result{
		CNIVersion: "1.0.0",
		Interfaces: []*types100.Interface{{Name: at.Pod.Name, Mac: at.Pod.MAC.String(), Sandbox: port.NetNS}},
		IPs: []*types100.IPConfig{{
			Interface: types100.Int(0), Gateway: address.Gateway.AsSlice(),
			Address: net.IPNet{IP: address.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(28, 32)},
		}},
		Routes: []*types.Route{{Dst: net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, GW: address.Gateway.AsSlice()}},
	}, "1.0.0")
}

func simpleDel(dir string, leak bool) error {
	pool, pods, port, err := simpleParts(dir)
	if err != nil {
		return err
	}
	if err := pods.Detach(context.Background(), port); err != nil || leak {
		return err
	}
	return pool.Release(context.Background(), ipam.Owner{Container: port.Container})
}

// TestFaultsAreNamed: each fault breaks its rule, and the rule's text leads its author there.
func TestFaultsAreNamed(t *testing.T) {
	testnet.Require(t)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // of each plugin; the default is a second
	self, err := os.Executable()
	require.NoError(t, err)
	t.Cleanup(func() { // plugins run in the namespace of the test
		pods, err := bridge.New(bridge.Config{})
		require.NoError(t, err)
		assert.NoError(t, pods.Teardown(context.WithoutCancel(t.Context())))
		assert.NoError(t, pods.Close())
	})
	bin := t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "simple")))
	run := func(t *testing.T, fault string) map[string]cnitest.Result {
		t.Helper()
		list := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"simple","plugins":[{"type":"simple","dir":%q,"fault":%q}]}`, t.TempDir(), fault)
		results, err := cnitest.Run(t.Context(), cnitest.Config{Dir: bin, List: []byte(list)})
		require.NoError(t, err)
		byID := map[string]cnitest.Result{}
		for _, r := range results {
			byID[r.ID] = r
		}
		return byID
	}
	t.Run("none", func(t *testing.T) {
		results := run(t, "")
		for _, id := range []string{"A2", "A4", "A5", "A7", "D1", "D2", "D3", "D4", "D5"} {
			assert.NoError(t, results[id].Err, id)
			assert.Empty(t, results[id].Skipped, id)
		}
		assert.Contains(t, results["L3"].Skipped, "gives addresses by itself")
	})
	tests := []struct{ fault, rule, want string }{
		{"leak", "D5", "no free address: all 13 are taken"},
		{"undo", "A4", "after 21 ADDs that failed another pod cannot be attached: "},
		{"gateway", "A7", "the pod's route to 0.0.0.0/0 is by 10.9.0.1, not by 10.9.0."},
		{"stdout", "A1", `standard output is not one JSON object and nothing else: invalid character 'a' looking for beginning of value: it begins with "attached\n{`},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			assert.ErrorContains(t, run(t, tt.fault)[tt.rule].Err, tt.want)
		})
	}
}
