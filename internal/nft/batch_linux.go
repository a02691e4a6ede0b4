package nft

import "github.com/podweft/podweft"

// Batch lists requests in the order in which the kernel is to carry them out. Its zero value is empty. One batch may be
// sent again and again, but not be added to meanwhile.
type Batch struct {
	msg      message
	requests []request
	sets     uint32 // made so far; numbers them
	err      error  // the first thing that could not be put into a message
}

// request is one message of a batch and what an error about it is to name.
type request struct {
	start, end int
	op         string
	object     podweft.Object
	elements   []Element // object is then their Set
}

// Len is the number of messages. Elements of one set share them.
func (b *Batch) Len() int { return len(b.requests) }

func (b *Batch) request(kind, flags uint16, family Family, op string, object podweft.Object, body func(m *message)) {
	start := len(b.msg.buf)
	b.msg.begin(kind, family, flags)
	body(&b.msg)
	b.msg.finish()
	b.requests = append(b.requests, request{start: start, end: len(b.msg.buf), op: op, object: object})
}
