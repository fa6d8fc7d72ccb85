package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"
	gvisorsandbox "gvisor.dev/gvisor/runsc/sandbox"
)

// What a keeper can be asked to do with its guest.
const (
	doPause      = "pause"
	doResume     = "resume"
	doCheckpoint = "checkpoint"
)

// request is what a keeper is asked for, and reply what it answers. Another is
// sent when the one before has been answered.
type (
	request struct {
		Do string `json:"do"`
	}
	reply struct {
		Error string `json:"error,omitempty"`
	}
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

// ask has the keeper do something. A keeper that ends meanwhile is an error.
func (c *control) ask(do string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r reply
	err := json.NewEncoder(c.conn).Encode(request{do})
	if err == nil {
		err = json.NewDecoder(c.conn).Decode(&r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		return fmt.Errorf("%s the sandbox: %w", do, err)
	}
	return nil
}

// obey is the keeper's end: it does what it is asked to until the worker is gone.
// Then it ends, and with it all there is in its process namespace: a guest that is
// paused would never notice that nobody is at the other end of its input.
func obey(line *os.File, id string, args []string) {
	defer os.Exit(1)
	in, out := json.NewDecoder(line), json.NewEncoder(line)
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			return
		}
		var answer reply
		if err := handle(r.Do, id, args); err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return
		}
	}
}

func handle(do, id string, args []string) error {
	flags := flag.NewFlagSet("runsc", flag.ContinueOnError)
	config.RegisterFlags(flags)
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	conf, err := config.NewFromFlags(flags)
	if err != nil {
		return err
	}
	guest, err := container.Load(conf.RootDir, container.FullID{SandboxID: id, ContainerID: id}, container.LoadOpts{Exact: true})
	if err != nil {
		return err
	}
	switch do {
	case doPause:
		return guest.Pause()
	case doResume:
		return guest.Resume()
	case doCheckpoint:
		// It is left running, but paused: the worker ends it once it knows that the
		// image is whole.
		return guest.Checkpoint(conf, filepath.Join(stage, "image"), gvisorsandbox.CheckpointOpts{Compression: statefile.CompressionLevelNone, Resume: true, ExcludeCommittedZeroPages: true})
	}
	return fmt.Errorf("unknown request %q", do)
}
