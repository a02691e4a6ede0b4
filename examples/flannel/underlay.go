package flannel

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"regexp"
	"strings"

	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
)

// texts is a flag that may be given several times.
type texts []string

// String implements flag.Value.
func (t *texts) String() string { return strings.Join(*t, " ") }

// Set implements flag.Value.
func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}

// completeChoices makes of flags which interfaces are tried, in flanneld's order: names, then patterns.
func (o *Options) completeChoices(bad func(flag, value, problem, remedy string) error) (err error) {
	var reach netip.Addr
	if o.reach != "" {
		if reach, err = netip.ParseAddr(o.reach); err != nil {
			return bad("iface-can-reach", o.reach, "is not an address", "write one like 192.0.2.1")
		}
	}
	var public subnet.Addrs
	if o.publicIP != "" {
		if public.V4, err = netip.ParseAddr(o.publicIP); err != nil {
			return bad("public-ip", o.publicIP, "is not an address", "write one like 192.0.2.1")
		}
		if public.V4.Is6() { // flanneld's users of IPv6 alone write it here too
			public.V4, public.V6 = netip.Addr{}, public.V4
		}
	}
	if o.publicIPv6 != "" {
		if public.V6, err = netip.ParseAddr(o.publicIPv6); err != nil || !public.V6.Is6() {
			return bad("public-ipv6", o.publicIPv6, "is not an IPv6 address", "write one like 2001:db8::1")
		}
	}
	for _, name := range o.iface {
		o.choices = append(o.choices, node.Choice{Name: name, Public: public, Reach: reach})
	}
	for _, text := range o.regex {
		pattern, err := regexp.Compile(text)
		if err != nil {
			return bad("iface-regex", text, "is not a pattern", err.Error())
		}
		o.choices = append(o.choices, node.Choice{Public: public, Match: pattern, Reach: reach})
	}
	if len(o.choices) == 0 {
		o.choices = []node.Choice{{Public: public, Reach: reach}}
	}
	o.Underlay = o.choices[0]
	return nil
}

// prefer makes addresses the public ones, if there are any. An interface that has them is the first choice; where none has, the flags
// say which stands behind the NAT. Of two that are on different interfaces node.Choose says so.
func (o *Options) prefer(chosen subnet.Addrs) {
	var first []node.Choice
	for a := range chosen.All() {
		first = append(first, node.Choice{Name: a.String(), Public: chosen})
	}
	for i := range o.choices {
		public := &o.choices[i].Public
		public.V4, public.V6 = cmp.Or(chosen.V4, public.V4), cmp.Or(chosen.V6, public.V6)
	}
	o.choices = append(first, o.choices...)
	o.Underlay = o.choices[0]
}

// chooseUnderlay settles which choice it is: the first that an interface meets. Where several meet a pattern, it is flanneld's way
// to take one; here it is the one with most to be said for it, such as a default route.
func (o *Options) chooseUnderlay(ctx context.Context) error {
	var failed error
	for _, choice := range o.choices {
		_, err := node.Choose(ctx, o.NetNS, choice)
		var several *node.ChoiceError
		switch {
		case err == nil:
			o.Underlay = choice
			return nil
		case choice.Match != nil && errors.As(err, &several) && several.Ambiguous():
			o.Underlay = node.Choice{Name: several.Candidates[0].Node.Device, Match: choice.Match, Public: choice.Public}
			return nil
		}
		failed = cmp.Or(failed, err)
	}
	return failed
}
