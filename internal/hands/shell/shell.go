// Package shell lets an operator of a worker's host into a running sandbox: a
// terminal in it, over a socket that only the worker's own user and root can
// reach, every byte of it recorded. It owns the sockets and the recordings, and
// may call sandbox and hand.
package shell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
)

// Below a worker's state directory: a socket for each worker that runs on it, and
// the recordings.
const (
	socketDir    = "shells"
	recordingDir = "recordings"
	socketExt    = ".sock"
)

// message is a line of JSON on the socket, in either direction.
type message struct {
	// From the operator, first: what is wanted.
	List bool  `json:"list,omitempty"`
	Open *Open `json:"open,omitempty"`
	// The answer to either.
	Sessions  []string `json:"sessions,omitempty"`
	Recording string   `json:"recording,omitempty"`
	Err       string   `json:"err,omitempty"`
	Unknown   bool     `json:"unknown,omitempty"` // the session is not this worker's
	// While a terminal is open: what is typed or shown, its size, its end.
	Data []byte     `json:"data,omitempty"`
	Size *hand.Size `json:"size,omitempty"`
	Exit *int       `json:"exit,omitempty"`
}

// Open says what terminal to open.
type Open struct {
	Session string    `json:"session"`
	Command []string  `json:"command,omitempty"` // default an interactive bash
	Term    string    `json:"term"`
	Size    hand.Size `json:"size"`
}

// line is a connection that messages go over.
type line struct {
	net.Conn
	in  *json.Decoder
	out *json.Encoder
}

func newLine(c net.Conn) line { return line{c, json.NewDecoder(c), json.NewEncoder(c)} }

// through calls a function with a short name for a path, for the paths of sockets
// must be shorter than those of directories often are.
func through(path string, do func(short string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// ErrNone says that no worker runs on a state directory.
var ErrNone = errors.New("no worker runs on this state directory")

// sockets lists those of the workers on a state directory. Some may have been killed.
func sockets(stateDir string) (paths []string, err error) {
	dir := filepath.Join(stateDir, socketDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == socketExt {
			paths = append(paths, filepath.Join(dir, entry.Name()))
		}
	}
	return paths, err
}

// connect connects to the worker behind a socket; nil when that one is gone, whose
// socket goes too.
func connect(socket string) (c net.Conn, err error) {
	err = through(socket, func(short string) (err error) {
		c, err = net.Dial("unix", short)
		return err
	})
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		_ = os.Remove(socket) // of a worker that was killed
		return nil, nil
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	}
	return c, err
}

// dial connects to every worker that runs on a state directory. The connections end
// with ctx.
func dial(ctx context.Context, stateDir string) (lines []line, err error) {
	all, err := sockets(stateDir)
	for _, socket := range all {
		c, e := connect(socket)
		if c != nil {
			lines = append(lines, newLine(c))
			context.AfterFunc(ctx, func() { _ = c.Close() })
		}
		err = errors.Join(err, e)
	}
	if len(lines) == 0 && err == nil {
		err = ErrNone
	}
	return lines, err
}
