package keeper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"gvisor.dev/gvisor/pkg/control/client"
)

// What a keeper can be asked to do with its guest.
const (
	Pause  = "pause"
	Resume = "resume"
	// Checkpoint writes an image of a guest that is paused, which it stays: the
	// worker ends it once it knows that the image is whole.
	Checkpoint = "checkpoint"
)

// Request is what a keeper is asked for, and Reply what it answers. Another is sent
// when the one before has been answered.
type (
	Request struct {
		Do string `json:"do"`
	}
	Reply struct {
		Error string `json:"error,omitempty"`
	}
)

// obey does what is asked for until the worker is gone. Then it ends this process,
// and with it all there is in its namespace: a guest that is paused would never
// notice that nobody is at the other end of its input.
func (g gvisor) obey(line *os.File) {
	defer os.Exit(1)
	in, out := json.NewDecoder(line), json.NewEncoder(line)
	for {
		var r Request
		if err := in.Decode(&r); err != nil {
			return
		}
		var answer Reply
		if err := g.handle(r.Do); err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return
		}
	}
}

func (g gvisor) handle(do string) error {
	switch do {
	case Pause:
		return g.call("containerManager.Pause")
	case Resume:
		return g.call("containerManager.Resume")
	case Checkpoint:
		cmd := g.command("runsc", "checkpoint", "--image-path="+filepath.Join(stage, "image"), "--compression=none", "--exclude-committed-zero-pages", "--leave-running", g.ID)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	}
	return fmt.Errorf("unknown request %q", do)
}

// call asks the guest's kernel itself.
func (g gvisor) call(method string) error {
	kernel, err := client.ConnectTo(filepath.Join(state, fmt.Sprintf("runsc-%s.sock", g.ID)))
	if err != nil {
		return fmt.Errorf("reach the guest's kernel: %w", err)
	}
	defer kernel.Close()
	return kernel.Call(method, nil, nil)
}
