package local

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/word"
)

// Record is one attachment: an interface of a container in a network, as a plugin has made it.
type Record struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	Interface string `json:"interface"`

	NetNS     string         `json:"netns,omitempty"`    // path of the pod's namespace, as the runtime named it
	HostName  string         `json:"hostName,omitempty"` // the node's end of the port
	MAC       string         `json:"mac,omitempty"`      // of the pod's end, where one was asked for
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	HostPorts []HostPort     `json:"hostPorts,omitempty"`
	Pod       Pod            `json:"pod,omitzero"`
	// Delegate is the configuration by which another program did part of the work, so that it can be told to undo it.
	Delegate []byte `json:"delegate,omitempty"`
	// Claimed says that the agent gave the addresses, and is to be told when they are free.
	Claimed bool `json:"claimed,omitempty"`
	// Lease is the node's subnet file, where the pod's addresses came of it: what the pod has been given can be told when it is gone.
	Lease string `json:"lease,omitempty"`

	Boot  string    `json:"boot"`  // the kernel's life in which it was written; Put fills it in
	Since time.Time `json:"since"` // by the wall clock, for people; Put fills it in
	// Uptime is when it was, in nanoseconds since the boot, for whoever asks which record came first: somebody may set the wall clock back.
	// Put fills it in with Since.
	Uptime uint64 `json:"uptime,omitempty"`
}

// Key is the record's name: "network/container/interface".
func (r Record) Key() Key { return Key{r.Network, r.Container, r.Interface} }

// Pod is the pod that the container belongs to, where an orchestrator has said so.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// HostPort is a port of the node that leads to the pod.
type HostPort struct {
	Protocol string     `json:"protocol"` // "tcp", "udp" or "sctp"
	HostIP   netip.Addr `json:"hostIP,omitzero"`
	Host     uint16     `json:"host"`
	Pod      uint16     `json:"pod"`
	// KeepSource is as in nat.HostPort: whoever comes keeps its address.
	KeepSource bool `json:"keepSource,omitempty"`
}

// Validate reports everything in r that makes no sense, joined, each as a [*podweft.FieldError].
func (r Record) Validate() error {
	problems := flaws{}
	problems.key("", r.Key())
	for i, p := range r.Addresses {
		if !p.IsValid() || p.Addr().Is4In6() {
			problems.add(fmt.Sprintf("addresses[%d]", i), p, "is not a pod's address")
		}
	}
	for i, p := range r.HostPorts {
		field := fmt.Sprintf("hostPorts[%d]", i)
		if p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp" {
			problems.add(field+".protocol", p.Protocol, "is not tcp, udp or sctp")
		}
		if p.Host == 0 {
			problems.add(field+".host", p.Host, "is not a port")
		}
		if p.Pod == 0 {
			problems.add(field+".pod", p.Pod, "is not a port")
		}
	}
	return problems.join()
}

// Key identifies an attachment, as CNI does. Its fields are those of ipam.Owner, so one can be converted to the other.
type Key struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	Interface string `json:"interface"`
}

// String is the key as "network/container/interface".
func (k Key) String() string { return k.Network + "/" + k.Container + "/" + k.Interface }

// Validate reports everything in k that CNI or the kernel does not allow, joined, each as a [*podweft.FieldError].
func (k Key) Validate() error {
	problems := flaws{}
	problems.key("", k)
	return problems.join()
}

func (k Key) compare(l Key) int {
	return cmp.Or(strings.Compare(k.Network, l.Network), strings.Compare(k.Container, l.Container), strings.Compare(k.Interface, l.Interface))
}

// encode writes what json.Marshal would. That learns a type by reflection before it writes the first value, for which a plugin
// that writes one in its life took as long as for everything else that it does with files.
func (r Record) encode() []byte {
	b := []byte{'{'}
	field := func(key string) { b = append(append(append(b, '"'), key...), `":`...) }
	text := func(key, value string) {
		if value == "" {
			return
		}
		field(key)
		quoted, _ := json.Marshal(value) // a string always can be
		b = append(append(b, quoted...), ',')
	}
	list := func(key string, n int, each func(i int)) {
		if n == 0 {
			return
		}
		field(key)
		b = append(b, '[')
		for i := range n {
			each(i)
			b = append(b, ',')
		}
		b[len(b)-1] = ']'
		b = append(b, ',')
	}
	end := func() { b[len(b)-1] = '}' } // there was something before
	text("network", r.Network)
	text("container", r.Container)
	text("interface", r.Interface)
	text("netns", r.NetNS)
	text("hostName", r.HostName)
	text("mac", r.MAC)
	list("addresses", len(r.Addresses), func(i int) { b = strconv.AppendQuote(b, r.Addresses[i].String()) })
	list("hostPorts", len(r.HostPorts), func(i int) {
		p := r.HostPorts[i]
		b = append(b, '{')
		text("protocol", p.Protocol)
		if p.HostIP.IsValid() {
			text("hostIP", p.HostIP.String())
		}
		b = fmt.Appendf(b, `"host":%d,"pod":%d`, p.Host, p.Pod)
		if p.KeepSource {
			b = append(b, `,"keepSource":true`...)
		}
		b = append(b, '}')
	})
	if r.Pod != (Pod{}) {
		field("pod")
		b = append(b, '{')
		text("namespace", r.Pod.Namespace)
		text("name", r.Pod.Name)
		text("uid", r.Pod.UID)
		end()
		b = append(b, ',')
	}
	text("delegate", base64.StdEncoding.EncodeToString(r.Delegate))
	if r.Claimed {
		field("claimed")
		b = append(b, "true,"...)
	}
	text("lease", r.Lease)
	text("boot", r.Boot)
	text("since", r.Since.Format(time.RFC3339Nano))
	if r.Uptime > 0 {
		field("uptime")
		b = append(strconv.AppendUint(b, r.Uptime, 10), ',')
	}
	end()
	return b
}

// decodeRecord reads a record, and says what is wrong with one that Put would not have written.
func decodeRecord(raw []byte) (rec Record, err error) {
	if err := json.Unmarshal(raw, &rec); err != nil {
		return Record{}, err
	}
	return rec, rec.Validate()
}

// flaws gathers what is wrong with a value.
type flaws []error

func (f *flaws) add(field string, value any, problem string) {
	if text, ok := value.(string); ok {
		value = fmt.Sprintf("%q", text)
	}
	*f = append(*f, &podweft.FieldError{Field: field, Value: value, Problem: problem})
}

func (f flaws) join() error { return errors.Join(f...) }

// maxName bounds the length of a network's name and of a container's ID: together with an interface's they name a file, and
// 255 bytes is all that takes.
const maxName = 115

// key checks the three names. None can leave a directory or hold the separator of a file's name.
func (f *flaws) key(prefix string, k Key) {
	if !word.Valid(k.Network, maxName) {
		f.add(prefix+"network", k.Network, "is not the name of a network")
	}
	if !word.Valid(k.Container, maxName) {
		f.add(prefix+"container", k.Container, "is not the ID of a container")
	}
	if !isLink(k.Interface) {
		f.add(prefix+"interface", k.Interface, "is not the name of an interface")
	}
}

// isLink reports whether the kernel allows s as the name of a link (dev_valid_name in net/core/dev.c).
func isLink(s string) bool {
	return s != "" && len(s) < 16 && s != "." && s != ".." && !strings.ContainsFunc(s, func(c rune) bool {
		return c == '/' || c == ':' || c == 0 || c == utf8.RuneError || unicode.IsSpace(c)
	})
}
