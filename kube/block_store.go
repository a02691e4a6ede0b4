package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/ipam/block"
)

// BlockConfig says in which cluster a [BlockStore] keeps its blocks. Only Client is required.
type BlockConfig struct {
	Client  *rest.Config  // how the API server is reached: rest.InClusterConfig, or clientcmd of a kubeconfig
	Timeout time.Duration // of one request; zero: DefaultTimeout
	Logger  *slog.Logger  // hears of an API server that is lost, and found; nil: silent
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c BlockConfig) Validate() error {
	return Config{Client: c.Client, Timeout: c.Timeout}.Validate()
}

// BlockStore is a block.Store in Kubernetes: each block is an object, of the kind that [BlockDefinition] defines, and a change is an
// update of its resourceVersion. Nothing expires: a block stays until somebody takes it back with block.Collect.
//
// The API server compares one object at a time, so a block is made in three steps: the object, not settled; a list, which tells
// whether another block overlaps it; and if none does, its settling. Of two that overlap, the one that was made later finds the other
// in its list and gives way, whatever the other one is up to. What is not settled is shown to nobody, and removed by who meets it
// when its maker must have died.
type BlockStore struct {
	timeout time.Duration
	log     *slog.Logger
	client  rest.Interface
	web     *http.Client
}

var _ block.Store = (*BlockStore)(nil)

// NewBlockStore returns the BlockStore in that cluster. It does not wait for the API server: whoever asks the Store first hears that
// it is not there. The error is podweft.ErrInvalid, or says what is wrong with BlockConfig.Client.
func NewBlockStore(cfg BlockConfig) (*BlockStore, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	to := settled(cfg.Client)
	web, err := rest.HTTPClientFor(to)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	client, err := clientOf(to, web, blockVersion, addBlocks)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &BlockStore{timeout: cmp.Or(cfg.Timeout, DefaultTimeout), log: cfg.Logger, client: client, web: web}, nil
}

// Close closes the connections that nobody uses. The blocks stay. End all watches before.
func (s *BlockStore) Close() error {
	utilnet.CloseIdleConnectionsFor(s.web.Transport)
	return nil
}

// Blocks implements block.Store. It lists all blocks, whatever the prefix.
func (s *BlockStore) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	found, err := s.overlapping(ctx, p)
	if err != nil {
		return nil, err
	}
	var blocks []block.Block
	for _, f := range found {
		if f.settled {
			blocks = append(blocks, f.Block)
		}
	}
	slices.SortFunc(blocks, func(a, b block.Block) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return blocks, nil
}

// foundBlock is a block with its object.
type foundBlock struct {
	block.Block
	settled bool
	object  metav1.ObjectMeta
}

// blockPage is how many blocks are asked for at a time; they are some hundred bytes each.
const blockPage = 500

// overlapping lists the blocks, settled or not, that overlap p.
func (s *BlockStore) overlapping(ctx context.Context, p netip.Prefix) (found []foundBlock, err error) {
	var errs []error
	for next := ""; ; {
		page, err := s.page(ctx, blockPage, next)
		if err != nil {
			return nil, fmt.Errorf("list blocks: %w", err)
		}
		for i := range page.Items {
			b, settled, err := page.Items[i].decode()
			if err != nil {
				errs = append(errs, err)
			} else if b.Prefix.Overlaps(p) {
				found = append(found, foundBlock{b, settled, page.Items[i].ObjectMeta})
			}
		}
		if next = page.Continue; next == "" {
			return found, errors.Join(errs...)
		}
	}
}

func (s *BlockStore) page(ctx context.Context, limit int, next string) (*blockList, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// No resourceVersion is asked for: that would be whatever the API server remembers, and two that make blocks could miss each other.
	request := s.client.Get().Resource(blockResource).Param("limit", strconv.Itoa(limit))
	if next != "" {
		request.Param("continue", next)
	}
	var page blockList
	return &page, request.Do(ctx).Into(&page)
}

// Write implements block.Store. One that changes nothing leaves the revision as it is.
func (s *BlockStore) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if err := b.Validate(); err != nil {
		return block.Block{}, err
	}
	if b.Revision == "" && len(b.Shares) == 0 {
		return b, ctx.Err() // a block of nobody: it is not there, and need not be
	}
	written, err := s.write(ctx, b)
	if err != nil {
		return block.Block{}, fmt.Errorf("write block %s: %w", b.Prefix, err)
	}
	return written, nil
}

func (s *BlockStore) write(ctx context.Context, b block.Block) (block.Block, error) {
	switch _, err := strconv.ParseUint(b.Revision, 10, 64); {
	case b.Revision == "":
		return s.create(ctx, b)
	case err != nil:
		return block.Block{}, block.ErrChanged // it is not the API server's
	case len(b.Shares) == 0:
		return b, s.remove(ctx, blockName(b.Prefix), metav1.Preconditions{ResourceVersion: &b.Revision})
	}
	return s.update(ctx, b)
}

// create makes the block, in three steps.
func (s *BlockStore) create(ctx context.Context, b block.Block) (block.Block, error) {
	o, err := newBlockObject(b, false)
	if err != nil {
		return block.Block{}, err
	}
	var made blockObject
	err = s.send(ctx, s.client.Post().Resource(blockResource).Body(o), &made)
	if apierrors.IsAlreadyExists(err) {
		return block.Block{}, s.outcome(ctx, o.Name)
	}
	if err != nil {
		return block.Block{}, err
	}
	other, err := s.inTheWay(ctx, b.Prefix, &made)
	if err == nil && other != "" {
		err = fmt.Errorf("%w: %s is there", block.ErrChanged, other)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		_ = s.remove(ctx, made.Name, metav1.Preconditions{UID: &made.UID}) // else it will be met
		return block.Block{}, err
	}
	b.Revision = made.ResourceVersion
	return s.update(ctx, b) // fails if somebody has removed it meanwhile
}

// unsettledFor is how long the maker of a block has to settle it.
const unsettledFor = 10 * time.Second

// outcome waits until it is clear what becomes of the block that another one is making, and returns block.ErrChanged. Whoever came
// back before would find the place as free as it was, and could not have it.
func (s *BlockStore) outcome(ctx context.Context, name string) error {
	for {
		var o blockObject
		err := s.send(ctx, s.client.Get().Resource(blockResource).Name(name), &o)
		if err != nil {
			return err // it is gone, it may be
		}
		b, settled, err := o.decode()
		if err != nil {
			return err
		}
		if settled || s.clear(ctx, foundBlock{b, settled, o.ObjectMeta}) {
			return fmt.Errorf("%w: it is there already", block.ErrChanged)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(shortestPause/2 + rand.N(shortestPause)):
		}
	}
}

// clear removes a block whose maker must have died. Should it live, it cannot settle it any more.
func (s *BlockStore) clear(ctx context.Context, b foundBlock) bool {
	return !b.settled && time.Since(b.object.CreationTimestamp.Time) > unsettledFor &&
		s.remove(ctx, b.object.Name, metav1.Preconditions{UID: &b.object.UID, ResourceVersion: &b.Revision}) == nil
}

// inTheWay names a block that overlaps the one that was just made and to which that has to give way, if there is one. Those that were
// made later give way themselves.
func (s *BlockStore) inTheWay(ctx context.Context, p netip.Prefix, made *blockObject) (name string, err error) {
	found, err := s.overlapping(ctx, p)
	if err != nil {
		return "", err
	}
	for _, o := range found {
		own := o.object.UID == made.UID
		if !own && (o.settled || !later(o.Revision, made.ResourceVersion)) && !s.clear(ctx, o) {
			name = o.object.Name
		}
	}
	return name, nil
}

// later reports whether a revision is later than another. They are etcd's, which count.
func later(revision, other string) bool {
	r, errR := strconv.ParseUint(revision, 10, 64)
	o, errO := strconv.ParseUint(other, 10, 64)
	return errR == nil && errO == nil && r > o
}

// update writes b, settled, in the place of its revision.
func (s *BlockStore) update(ctx context.Context, b block.Block) (block.Block, error) {
	o, err := newBlockObject(b, true)
	if err != nil {
		return block.Block{}, err
	}
	var written blockObject
	err = s.send(ctx, s.client.Put().Resource(blockResource).Name(o.Name).Body(o), &written)
	b = b.Clone()
	b.Revision = written.ResourceVersion
	return b, err
}

func (s *BlockStore) remove(ctx context.Context, name string, only metav1.Preconditions) error {
	options := &metav1.DeleteOptions{Preconditions: &only}
	return s.send(ctx, s.client.Delete().Resource(blockResource).Name(name).Body(options), nil)
}

// send sends a change.
func (s *BlockStore) send(ctx context.Context, request *rest.Request, answer *blockObject) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	result := request.Do(ctx)
	err := result.Error()
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err) && !noBlocks(err):
		return fmt.Errorf("%w: %w", block.ErrChanged, err)
	case err != nil || answer == nil:
		return err
	}
	return result.Into(answer)
}

// noBlocks reports whether it is not the object but its kind that the API server does not know.
func noBlocks(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && (status.Status().Details == nil || status.Status().Details.Name == "")
}

// Watch implements block.Store. An API server that goes away does not end it: when there is one again, changed is called. What ends it
// is that at first there is none, or that it does not know blocks or us.
func (s *BlockStore) Watch(ctx context.Context, changed func()) error {
	away := time.Time{}
	begun := false
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := s.follow(ctx, func() {
			if !away.IsZero() {
				s.log.InfoContext(ctx, "the API server answers again", "away", time.Since(away).Round(time.Second))
			}
			begun, away, pause = true, time.Time{}, shortestPause
			changed()
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !begun:
			return err
		case err != nil && away.IsZero():
			away = time.Now()
			s.log.WarnContext(ctx, "the API server does not answer; what was read last stays in force", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// How long to wait before an API server is asked again.
const shortestPause, longestPause = 50 * time.Millisecond, time.Second

// follow calls changed for what one stream brings. Without an error the API server has had enough of it.
func (s *BlockStore) follow(ctx context.Context, changed func()) error {
	page, err := s.page(ctx, 1, "")
	if err != nil {
		return fmt.Errorf("list blocks: %w", err)
	}
	// Nodes that were started together must not come again together.
	until := 5*time.Minute + rand.N(5*time.Minute)
	stream, err := s.client.Get().Resource(blockResource).
		Param("watch", "true").Param("resourceVersion", page.ResourceVersion).
		Param("timeoutSeconds", strconv.Itoa(int(until.Seconds()))).Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch blocks: %w", err)
	}
	defer stream.Stop()
	changed()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-stream.ResultChan():
			if !ok || e.Type == watch.Error { // what was missed may be compacted: we look anew
				return nil
			}
			changed()
		}
	}
}
