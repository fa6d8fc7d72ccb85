package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

// container is one that has been made. It is the process of a hand, and bounds
// it: the daemon does.
type container struct {
	api    *api
	id     string
	conn   io.Closer     // to its streams; set by Start
	group  *cgroup.Group // the daemon's, which has bounded it; set by Start
	paused atomic.Bool
}

// Start implements sandbox.Process.
func (c *container) Start(ctx context.Context, notes io.Writer) (pid int, stdin io.WriteCloser, stdout io.Reader, err error) {
	// First, so that nothing it says is missed.
	conn, err := c.api.attach(ctx, c.id)
	if err != nil {
		return 0, nil, nil, err
	}
	c.conn = conn
	if err := c.api.do(ctx, request{method: http.MethodPost, path: c.path("/start")}, nil); err != nil {
		conn.Close()
		return 0, nil, nil, err
	}
	var now struct{ State struct{ Pid int } }
	err = c.api.do(ctx, request{method: http.MethodGet, path: c.path("/json")}, &now)
	if err != nil && !refused(err, http.StatusNotFound) { // it ended at once, and will have said why
		conn.Close()
		return 0, nil, nil, err
	}
	c.group = cgroup.Of(now.State.Pid, c.id)
	return now.State.Pid, conn, &output{from: bufio.NewReader(conn), notes: notes}, nil
}

func (c *container) path(action string) string { return "/containers/" + c.id + action }

// Kill implements sandbox.Process: the hand ends with its standard input. One that
// does not is ended when the container is removed.
func (c *container) Kill() { c.conn.Close() }

// Wait implements sandbox.Process. To remove the container is to wait for it.
func (c *container) Wait() {}

// Hits implements sandbox.Bounds.
func (c *container) Hits() sandbox.Hits { return c.group.Hits() }

// freezing is how long the daemon may take to pause a container.
const freezing = 10 * time.Second

// Freeze implements sandbox.Bounds.
func (c *container) Freeze(frozen bool) error {
	if !frozen && !c.paused.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezing)
	defer cancel()
	action := map[bool]string{true: "/pause", false: "/unpause"}[frozen]
	if err := c.api.do(ctx, request{method: http.MethodPost, path: c.path(action)}, nil); err != nil {
		return err
	}
	c.paused.Store(frozen)
	return nil
}

// output is the standard output in the stream of a container, in which the
// standard error, which goes to notes, is mixed.
type output struct {
	from  *bufio.Reader
	left  int64 // of the part of the standard output that has begun
	notes io.Writer
}

// A part begins with a byte that says of which stream it is, three zeros, and its
// length.
const (
	headLength = 8
	streamOut  = 1
	streamErr  = 2
)

func (o *output) Read(p []byte) (int, error) {
	for o.left == 0 {
		var head [headLength]byte
		if _, err := io.ReadFull(o.from, head[:]); err != nil {
			return 0, err
		}
		length := int64(binary.BigEndian.Uint32(head[4:]))
		switch head[0] {
		case streamOut:
			o.left = length
		case streamErr:
			if _, err := io.CopyN(o.notes, o.from, length); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("the Docker daemon's stream has a part of kind %d", head[0])
		}
	}
	n, err := o.from.Read(p[:min(int64(len(p)), o.left)])
	o.left -= int64(n)
	return n, err
}
