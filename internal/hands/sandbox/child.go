package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"hearth/internal/hands/hand"
)

// Child is a Sandbox whose hand is a process, mostly a child of this one, that
// talks over its standard input and output. Engines that start one embed it.
type Child struct {
	Launch
	hand      *hand.Client
	pid       int // on this host
	stdin     io.Closer
	waited    chan struct{} // closed when the child has been waited for
	disk      *disk         // nil without a limit
	flooded   atomic.Bool   // it was ended for what waited in its sockets
	once      sync.Once
	destroyed error // set by once
}

// Launch says how a Child is started, and what it is.
type Launch struct {
	Spec Spec
	// Inside is the working directory as tools inside see it.
	Inside string
	// Cmd is the hand's process.
	Cmd *exec.Cmd
	// Start starts Cmd. Default Cmd.Start.
	Start func() error
	// Process is the hand's process where it is no child of this one; there is no
	// Cmd then.
	Process Process
	// Started is called once the process exists, before it begins.
	Started func(pid int) error
	// Bounds hold it to its limits, from its start on.
	Bounds Bounds
	// Scratch is a host directory with files of the sandbox beside the working
	// directory; "" for none.
	Scratch string
	// Shared tells that the sandbox's kernel is the host's.
	Shared bool
	// Resumed tells that the hand goes on from a checkpoint.
	Resumed bool
	// Free frees what the engine holds; it is called once the child has ended.
	Free func(context.Context) error
}

// Process is the process of a hand.
type Process interface {
	// Start starts it. What it says on its standard error goes to notes. The
	// process id is that on this host.
	Start(ctx context.Context, notes io.Writer) (pid int, stdin io.WriteCloser, stdout io.Reader, err error)
	// Kill ends it, unless it has ended by itself.
	Kill()
	// Wait waits for its end, after all it said has been read.
	Wait()
}

// child is a Process that is a child of this one.
type child struct {
	cmd   *exec.Cmd
	start func() error
}

func (c child) Start(_ context.Context, notes io.Writer) (pid int, stdin io.WriteCloser, stdout io.Reader, err error) {
	if stdin, err = c.cmd.StdinPipe(); err != nil {
		return 0, nil, nil, err
	}
	if stdout, err = c.cmd.StdoutPipe(); err != nil {
		return 0, nil, nil, err
	}
	c.cmd.Stderr = notes
	if c.start == nil {
		c.start = c.cmd.Start
	}
	if err := c.start(); err != nil {
		return 0, nil, nil, err
	}
	return c.cmd.Process.Pid, stdin, stdout, nil
}

func (c child) Kill() { _ = c.cmd.Process.Kill() }

func (c child) Wait() { _ = c.cmd.Wait() } // how it ended is of no use

// startTimeout bounds the start of a sandbox: one that is restored may have been
// left so that it never says it is ready.
const startTimeout = 5 * time.Minute

// Run starts the hand of a sandbox and waits until it is ready. Few do so at a
// time.
func (l Launch) Run(ctx context.Context) (*Child, error) {
	leave, err := starting.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("start the sandbox: wait until fewer others start: %w", err)
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var dirs []*os.File // with what counts as its own
	if l.Spec.Limits.DiskBytes > 0 {
		if dirs, err = openDirs(l.Spec.Workdir, l.Spec.Mnt, l.Scratch); err != nil {
			return nil, fmt.Errorf("start the sandbox: watch what it writes: %w", err)
		}
	}
	p, err := l.run(ctx)
	if err != nil {
		closeDirs(dirs)
		return nil, err
	}
	if len(dirs) > 0 {
		p.disk = &disk{limit: l.Spec.Limits.DiskBytes, dirs: dirs, pid: p.pid, calls: map[*context.CancelCauseFunc]int64{}, kill: p.Process.Kill, over: make(chan struct{}, 1)}
		go p.disk.watch(p.hand.Done())
	}
	if l.Shared && l.Spec.Limits.MemoryBytes > 0 {
		go p.watchQueues()
	}
	return p, nil
}

func (l Launch) run(ctx context.Context) (*Child, error) {
	if l.Process == nil {
		l.Process = child{l.Cmd, l.Start}
	}
	notes := &tail{}
	pid, stdin, stdout, err := l.Process.Start(ctx, notes)
	if err != nil {
		return nil, fmt.Errorf("start the sandbox: %w", err)
	}
	p := &Child{Launch: l, pid: pid, stdin: stdin, waited: make(chan struct{})}
	err = l.Started(pid)
	if err == nil {
		connect := hand.Connect
		if l.Resumed {
			connect = hand.Reconnect
		}
		p.hand, err = connect(ctx, stdout, stdin)
	}
	if err != nil {
		l.Process.Kill()
		stdin.Close()
		l.Process.Wait()
		close(p.waited)
		return nil, fmt.Errorf("start the sandbox: %w%s", err, notes)
	}
	go func() {
		<-p.hand.Done() // all it said has been read
		l.Process.Wait()
		close(p.waited)
	}()
	return p, nil
}

// ID implements Sandbox.
func (p *Child) ID() string { return p.Spec.ID }

// Workdir implements Sandbox.
func (p *Child) Workdir() string { return p.Inside }

// Done implements Sandbox.
func (p *Child) Done() <-chan struct{} { return p.hand.Done() }

// Call implements Sandbox.
func (p *Child) Call(ctx context.Context, call hand.Call) (hand.Result, error) {
	running, release := ctx, func() {}
	if p.disk != nil {
		running, release = p.disk.during(ctx)
	}
	defer release()
	before := p.Bounds.Hits()
	result, err := p.hand.Call(running, call)
	limit := p.Spec.Limits.since(before, p.Bounds.Hits())
	var full *LimitError
	switch {
	case err == nil && limit == nil:
		if likely := p.Spec.Limits.guess(result.Text, p.disk.full); likely != nil && call.Tool == "bash" {
			result.Text += "\n(Perhaps " + likely.Error() + ".)"
		}
	case err == nil:
		result.Text += "\n(" + limit.Error() + ".)"
		result.IsError = true
	case ctx.Err() == nil && errors.As(context.Cause(running), &full):
		return hand.Result{ID: call.ID, IsError: true, Text: "The call was stopped: " + full.Error() + "."}, nil
	case limit != nil:
		err = errors.Join(limit, err)
	case p.flooded.Load():
		err = errors.Join(&LimitError{Limit: size(p.Spec.Limits.MemoryBytes/queueShare) + " of memory in sockets"}, err)
	case p.disk != nil && p.disk.ended():
		err = errors.Join(p.disk.exceeded(), err)
	}
	return result, err
}

// Terminal implements Sandbox.
func (p *Child) Terminal(ctx context.Context, t hand.Terminal) (*hand.Screen, error) {
	return p.hand.Terminal(ctx, t)
}

// Pause implements Sandbox.
func (p *Child) Pause(context.Context) error { return p.Bounds.Freeze(true) }

// Resume implements Sandbox.
func (p *Child) Resume(context.Context) error { return p.Bounds.Freeze(false) }

// Destroy implements Sandbox.
func (p *Child) Destroy(ctx context.Context) error {
	p.once.Do(func() {
		_ = p.Bounds.Freeze(false) // what is frozen may be beyond being killed
		p.Process.Kill()
		p.stdin.Close()
		<-p.waited
		p.destroyed = p.Free(ctx)
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
