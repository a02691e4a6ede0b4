package flannel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/podweft/podweft/subnet"
)

// subnetFile tells the CNI plugin what this node's pods get, in flannel's form.
func subnetFile(network *subnet.Network, p subnet.Prefixes, mtu int, masquerade bool) []byte {
	var b bytes.Buffer
	write := func(family string, of, own netip.Prefix) {
		if of.IsValid() && own.IsValid() {
			fmt.Fprintf(&b, "FLANNEL%s_NETWORK=%s\n", family, of)
			fmt.Fprintf(&b, "FLANNEL%s_SUBNET=%s\n", family, netip.PrefixFrom(own.Addr().Next(), own.Bits()))
		}
	}
	write("", network.V4.Network, p.V4)
	write("_IPV6", network.V6.Network, p.V6)
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", mtu, masquerade)
	return b.Bytes()
}

// replaceFile gives the file new contents at one stroke; readers see the old or the new.
func replaceFile(path string, contents []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	draft, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(draft.Name()) }() // gone already when it was renamed
	_, err = draft.Write(contents)
	if err = errors.Join(err, draft.Chmod(0o644), draft.Close()); err != nil {
		return err
	}
	return os.Rename(draft.Name(), path)
}

// readSubnetFile returns the file's variables.
func readSubnetFile(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			vars[name] = strings.Trim(value, `"`)
		}
	}
	return vars, nil
}
