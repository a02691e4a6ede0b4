package cable

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// Pod is a pod's network namespace.
type Pod struct {
	Space
	file *os.File // names it in requests
}

// Enter opens the pod's namespace and sockets in it.
func (n *Node) Enter(path string) (*Pod, error) {
	pod, err := n.Open(path)
	if err != nil {
		return nil, err
	}
	if err := pod.Dial(); err != nil {
		pod.Close()
		return nil, err
	}
	return pod, nil
}

// Open opens the namespace, unless it is the node's own. [Pair.Plug] does the rest, or [Pod.Dial].
func (n *Node) Open(path string) (*Pod, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &podweft.OpError{Op: "open", Object: podweft.Named("network namespace"), Err: err}
	}
	info, err := file.Stat()
	if err == nil && os.SameFile(info, n.ns) {
		err = &podweft.FieldError{
			Field: "Port.NetNS", Value: path, Problem: "is the node's own network namespace", Remedy: "give the pod's",
		}
	}
	if err == nil && !isNamespace(file) {
		err = &podweft.OpError{
			Op: "open", Object: podweft.Named("network namespace"), Err: fmt.Errorf("enter %s: %w", path, unix.EINVAL),
		}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Pod{Space: Space{Path: path}, file: file}, nil
}

// isNamespace tells a namespace from other files before anything is done for it.
func isNamespace(f *os.File) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Dial opens sockets in the namespace.
func (p *Pod) Dial() (err error) {
	p.Conn, err = nl.Dial(p.Path)
	return err
}

// Close frees the descriptor and the sockets.
func (p *Pod) Close() {
	if p.Conn != nil {
		p.Conn.Close()
	}
	p.file.Close()
}
