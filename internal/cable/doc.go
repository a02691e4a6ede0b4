// Package cable lays the veth pair by which a pod is attached to its node, and sets up what belongs at the pod's end of it: what
// the drivers of pod ports share. What the node's end is plugged into is theirs to say.
//
// The pair is made by one request, with its peer born inside the pod's namespace; moving it there later costs some 25 times
// more. Everything is compared before it is written, so that an attachment that was killed half-way is completed by the next,
// and what is not as wanted is named and left alone.
//
// The package chooses no addresses and knows neither bridges nor routes of the node.
package cable
