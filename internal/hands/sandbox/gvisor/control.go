package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox/gvisor/keeper"
)

// control is the worker's end of the line to a keeper.
type control struct {
	mu   sync.Mutex // held from request to reply
	conn net.Conn
}

// newControl makes a line; the file is the keeper's end.
func newControl() (*control, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	own, theirs := os.NewFile(uintptr(ends[0]), "control"), os.NewFile(uintptr(ends[1]), "control")
	defer own.Close()
	conn, err := net.FileConn(own)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return &control{conn: conn}, theirs, nil
}

// ask has the keeper do something. A keeper that ends meanwhile is an error. When ctx
// ends, so does the keeper: nobody knows what state its guest is in.
func (c *control) ask(ctx context.Context, do string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	var r keeper.Reply
	err := json.NewEncoder(c.conn).Encode(keeper.Request{Do: do})
	if err == nil {
		err = json.NewDecoder(c.conn).Decode(&r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s the sandbox: %w", do, err)
	}
	return nil
}
