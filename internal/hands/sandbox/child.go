package sandbox

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"sync"

	"hearth/internal/hands/hand"
)

// Child is a Sandbox whose hand is a child process that talks over its
// standard input and output. Engines that start one embed it.
type Child struct {
	id, workdir string
	cmd         *exec.Cmd
	hand        *hand.Client
	stdin       io.Closer
	waited      chan struct{} // closed when the child has been waited for
	destroy     func(context.Context) error
	once        sync.Once
	destroyed   error // set by once
}

// Start starts cmd, by launch, as the hand of a sandbox and waits until it is
// ready. Started is called once the process exists. Destroy frees what the
// engine holds; it is called once the child has ended.
func Start(ctx context.Context, spec Spec, workdir string, cmd *exec.Cmd, launch func() error, started func(pid int) error, destroy func(context.Context) error) (*Child, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	notes := &tail{}
	cmd.Stderr = notes
	if err := launch(); err != nil {
		return nil, fmt.Errorf("start the sandbox: %w", err)
	}
	p := &Child{id: spec.ID, workdir: workdir, cmd: cmd, stdin: stdin, waited: make(chan struct{}), destroy: destroy}
	err = started(cmd.Process.Pid)
	if err == nil {
		p.hand, err = hand.Connect(ctx, stdout, stdin)
	}
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended by itself
		stdin.Close()
		_ = cmd.Wait()
		close(p.waited)
		return nil, fmt.Errorf("start the sandbox: %w%s", err, notes)
	}
	go func() {
		<-p.hand.Done() // all it said has been read
		_ = cmd.Wait()  // how it ended is of no use
		close(p.waited)
	}()
	return p, nil
}

// ID implements Sandbox.
func (p *Child) ID() string { return p.id }

// Workdir implements Sandbox.
func (p *Child) Workdir() string { return p.workdir }

// Done implements Sandbox.
func (p *Child) Done() <-chan struct{} { return p.hand.Done() }

// Call implements Sandbox.
func (p *Child) Call(ctx context.Context, call hand.Call) (hand.Result, error) {
	return p.hand.Call(ctx, call)
}

// Destroy implements Sandbox.
func (p *Child) Destroy(ctx context.Context) error {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		p.stdin.Close()
		<-p.waited
		p.destroyed = p.destroy(ctx)
	})
	return p.destroyed
}

// tail keeps the first of what a child says when it fails.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const maxNotes = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b[:min(len(b), max(0, maxNotes-len(t.text)))]...)
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return ": " + string(t.text)
}
