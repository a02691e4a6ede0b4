package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// Spec is everything that should be there: a bridge and its ports.
type Spec struct {
	Bridge Bridge
	Ports  []Port
	// Sweep removes the owner's ports that Ports does not name, too. It is for who alone attaches pods: where a plugin does,
	// they may be of a pod that it is just attaching.
	Sweep bool
}

// Validate reports everything in s that makes no sense, joined, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	b := s.Bridge.withDefaults()
	errs := []error{b.Validate()}
	first := map[string]int{}
	holder := map[netip.Addr]int{}
	for i, p := range s.Ports {
		p = p.withDefaults(DefaultOwner, b)
		if err := errors.Join(p.Validate(), p.fits(b)); err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", p.text(), err))
		}
		if j, twice := first[p.text()]; twice {
			errs = append(errs, &podweft.FieldError{
				Field: fmt.Sprintf("Ports[%d]", i), Value: p.text(), Problem: fmt.Sprintf("is the port of Ports[%d] too", j), Remedy: "leave one out",
			})
		}
		first[p.text()] = i
		for _, a := range p.Addresses {
			if j, twice := holder[a.Addr()]; twice && j != i {
				errs = append(errs, &podweft.FieldError{
					Field: fmt.Sprintf("Ports[%d].Addresses", i), Value: a.Addr(), Problem: fmt.Sprintf("is an address of Ports[%d] too", j),
					Remedy: "give each port its own",
				})
			}
			holder[a.Addr()] = i
		}
	}
	return errors.Join(errs...)
}

// Driver keeps a bridge and many ports as they should be: it makes what is missing and repairs what somebody has changed, as
// Attach does for one. It is a [podweft.Driver], for a [podweft.Loop], and safe for concurrent use.
type Driver struct {
	pods *Attacher
	path string // of the node's namespace

	mu      sync.Mutex
	passing int             // passes under way: what happens then may come too late for them
	names   map[string]bool // of the links that the last pass was about
	links   map[int]bool    // and their indexes
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// NewDriver opens the driver's sockets. It changes nothing in the kernel.
func NewDriver(cfg Config) (*Driver, error) {
	pods, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return &Driver{pods: pods, path: cfg.NetNS, names: map[string]bool{}, links: map[int]bool{}}, nil
}

// Close frees the driver's sockets. Bridges and ports stay.
func (d *Driver) Close() error { return d.pods.Close() }

// Plan compares the bridge and each port with what spec asks for and writes nothing. It looks into every pod.
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	return d.pass(ctx, spec, func(*podweft.Change, func() error) {})
}

// Apply makes the bridge and the ports as spec asks for. A port that cannot be is reported, with all others that cannot, and
// stops nobody: most often its pod is gone.
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	plan, err := d.pass(ctx, spec, func(c *podweft.Change, do func() error) {
		switch {
		case c.Err != nil:
		case podweft.PassOf(ctx).Held(c.Object):
			c.Err = podweft.ErrHeld
		default:
			c.Err = do()
		}
	})
	return plan, errors.Join(err, plan.Err())
}

// Watch calls changed once when it listens, and then whenever one of the node's links that the last Plan or Apply was about
// may have changed, or any while one is under way, until ctx ends. What happens inside of pods it does not hear of: a Loop's Resync finds that.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	concerns := func(index int, name string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.passing > 0 || d.names[name] || d.links[index] {
			changed()
		}
	}
	return nl.Watch(ctx, d.path, nl.Events{
		Link: concerns, Address: func(link int) { concerns(link, "") }, Lost: changed,
	}, changed)
}

// Teardown removes all bridges and ports that bear the owner's mark. Pods lose their links.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) {
	all, err := d.pods.node.Marked(ctx, "veth", "bridge")
	if err != nil {
		return nil, err
	}
	plan := deletions(all)
	err = d.pods.node.DeleteAll(ctx, all)
	for i := range plan {
		plan[i].Err = err
	}
	return plan, err
}

func deletions(links []nl.Link) (plan podweft.Plan) {
	for _, l := range links {
		plan = append(plan, podweft.Change{Op: podweft.Delete, Object: podweft.Named("link " + l.Name), Note: l.Alias})
	}
	return plan
}

// pass compares everything, and lets each change be made.
func (d *Driver) pass(ctx context.Context, spec Spec, make func(c *podweft.Change, do func() error)) (plan podweft.Plan, err error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	b := spec.Bridge.withDefaults()
	change := func(c podweft.Change, do func() error) {
		make(&c, do)
		plan = append(plan, c)
	}
	seen := sight{names: map[string]bool{b.Name: true}, links: map[int]bool{}}
	for _, p := range spec.Ports {
		seen.names[p.withDefaults(d.pods.node.Owner, b).HostName] = true
	}
	d.begin()
	defer func() { d.end(seen) }()
	br, c, err := d.compareBridge(ctx, b)
	if err != nil {
		return nil, err
	}
	if c.Op != 0 {
		change(c, func() (err error) {
			br, err = d.pods.converge(ctx, b)
			return err
		})
	}
	seen.links[br.Index] = true
	for _, p := range spec.Ports {
		if err := ctx.Err(); err != nil {
			return plan, err
		}
		p = p.withDefaults(d.pods.node.Owner, b)
		c, index := d.comparePort(ctx, b, br, p)
		seen.links[index] = true
		if c.Op != 0 {
			change(c, func() error {
				_, err := d.pods.Attach(ctx, b, p)
				return err
			})
		}
	}
	if spec.Sweep {
		swept, err := d.sweep(ctx, seen, make)
		return append(plan, swept...), err
	}
	return plan, nil
}

// sweep removes the owner's ports that the Spec does not name, at once all that are not held.
func (d *Driver) sweep(ctx context.Context, seen sight, make func(c *podweft.Change, do func() error)) (podweft.Plan, error) {
	all, err := d.pods.node.Marked(ctx, "veth")
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(l nl.Link) bool { return seen.names[l.Name] })
	plan := deletions(all)
	var due []*podweft.Change
	var links []nl.Link
	for i := range plan {
		make(&plan[i], func() error {
			due, links = append(due, &plan[i]), append(links, all[i])
			return nil
		})
	}
	err = d.pods.node.DeleteAll(ctx, links)
	for _, c := range due {
		c.Err = err
	}
	return plan, nil
}

// sight is what a pass was about.
type sight struct {
	names map[string]bool
	links map[int]bool
}

func (d *Driver) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passing++
}

func (d *Driver) end(s sight) {
	delete(s.links, 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passing--
	d.names, d.links = s.names, s.links
}

// compareBridge returns the bridge, as it is or will be, and what is to be done about it; a Change without an Op is nothing.
func (d *Driver) compareBridge(ctx context.Context, b Bridge) (br nl.Link, c podweft.Change, err error) {
	a := d.pods
	want := a.wanted(b)
	c.Object = bridgeObject{want, b}
	have, err := a.node.Conn.Link(b.Name)
	if errors.Is(err, nl.ErrNoLink) {
		c.Op = podweft.Create
		return want, c, ctx.Err()
	}
	if err != nil {
		return have, c, err
	}
	steps, err := a.bridgeLacks(have, want, b)
	switch {
	case errors.Is(err, podweft.ErrConflict):
		c.Op, c.Err = podweft.Update, err
	case err != nil:
		return have, c, err
	case len(steps) > 0:
		c.Op, c.Note = podweft.Update, stepsText(steps)
	}
	return have, c, nil
}

// comparePort returns what is to be done about a port, and the index of its host end.
func (d *Driver) comparePort(ctx context.Context, b Bridge, br nl.Link, p Port) (c podweft.Change, index int) {
	c.Object = portObject{p, b.Name}
	a := d.pods
	host, err := a.node.Conn.Port(ctx, p.HostName)
	if errors.Is(err, nl.ErrNoLink) {
		c.Op = podweft.Create
		return c, 0
	}
	var steps []cable.Step
	if err == nil {
		steps, err = a.portLacks(ctx, b, br, p)
	}
	switch {
	case errors.Is(err, podweft.ErrConflict):
		c.Op, c.Err = podweft.Update, err // trying would be pointless
	case err != nil:
		c.Op, c.Note = podweft.Update, err.Error()
	case len(steps) > 0:
		c.Op, c.Note = podweft.Update, stepsText(steps)
	}
	return c, host.Index
}

// portLacks is what an existing port is to be given.
func (a *Attacher) portLacks(ctx context.Context, b Bridge, br nl.Link, p Port) ([]cable.Step, error) {
	pod, err := a.node.Enter(p.NetNS)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	v := a.veth(b, br, p)
	if err := v.Look(ctx, a.node, pod); err != nil {
		return nil, err
	}
	limit, err := v.LimitHost(ctx, a.node)
	if err != nil {
		return nil, err
	}
	lacking, err := pod.Lacking(ctx, v.setup())
	return slices.Concat(v.hostSteps(), limit, lacking.Steps()), err
}

func stepsText(steps []cable.Step) string {
	var all []string
	for _, s := range steps {
		all = append(all, s.Op+" "+s.Object)
	}
	return strings.Join(all, ", ")
}

// text is what no two ports may share.
func (p Port) text() string { return p.Container + "/" + cmp.Or(p.Name, DefaultInterface) }

// bridgeObject and portObject are what a Plan names.
type bridgeObject struct {
	link   nl.Link
	bridge Bridge
}

func (o bridgeObject) ID() string { return "link " + o.link.Name }

func (o bridgeObject) String() string {
	text := fmt.Sprintf("link %s type bridge address %s", o.link.Name, o.link.MAC)
	if o.link.MTU != 0 {
		text += fmt.Sprintf(" mtu %d", o.link.MTU)
	}
	for _, g := range o.bridge.Gateways {
		text += " " + g.String()
	}
	return text
}

type portObject struct {
	port   Port
	bridge string
}

func (o portObject) ID() string { return "port " + o.port.text() }

func (o portObject) String() string {
	text := fmt.Sprintf("port %s dev %s master %s", o.port.text(), o.port.HostName, o.bridge)
	for _, a := range o.port.Addresses {
		text += " " + a.String()
	}
	return text
}
