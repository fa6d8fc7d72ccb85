// Package gvisor is the default engine: each sandbox is a gVisor guest, whose
// system calls are answered by a kernel of its own in user space, with a root
// made from the host's files, and no network but its own loopback. gVisor is
// linked into this binary and started from it; there is no daemon and nothing
// to install. It may call sandbox and hand.
//
// A sandbox is one keeper on the host, the first process of a process namespace
// in which all of gVisor runs; so whatever ends the keeper ends it all.
package gvisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
	"hearth/internal/hands/sandbox/gvisor/keeper"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/program"
	"hearth/internal/hands/sandbox/record"
)

// Config of an Engine.
type Config struct {
	// StateDir holds the engine's scratch files.
	StateDir string
	// Groups is where control groups are made. Default nowhere: memory, CPU and
	// the number of processes are then not limited from outside.
	Groups *cgroup.Tree
	// Program is this program, statically linked, to run gVisor. Default: the file
	// this process runs.
	Program string
	// Hand is the file of a smaller program with what runs in guests, and with their
	// keepers. Default: Program.
	Hand string
	// Log. Default slog.Default().
	Log *slog.Logger
}

// Engine implements sandbox.Engine.
type Engine struct {
	dir     record.Dir
	groups  *cgroup.Tree
	program *program.File // what runs gVisor
	hand    string        // what runs in the guest, and keeps it; "" for program
	log     *slog.Logger
}

// New makes the engine.
func New(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	dir := filepath.Join(cfg.StateDir, "gvisor")
	return &Engine{dir: record.Dir(dir), groups: cfg.Groups, program: program.New(cfg.Program, dir), hand: cfg.Hand, log: cfg.Log}
}

// Name implements sandbox.Engine.
func (e *Engine) Name() string { return "gvisor" }

// Check implements sandbox.Engine.
func (e *Engine) Check(ctx context.Context) error {
	if _, err := os.Stat("/bin/bash"); err != nil {
		return fmt.Errorf("there is no /bin/bash; install bash: %w", err)
	}
	if err := e.program.Static(); err != nil {
		return err
	}
	probe := exec.CommandContext(ctx, "/bin/true")
	probe.SysProcAttr = attributes()
	if err := probe.Run(); err != nil {
		return fmt.Errorf("the kernel refuses new namespaces (inside a container, it must be run with more rights): %w", err)
	}
	return nil
}

// attributes start a keeper: the first process of a process namespace, with
// mounts of its own. An ordinary user is root there by a user namespace.
func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC, Setsid: true}
	if os.Getuid() != 0 {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// Create implements sandbox.Engine.
func (e *Engine) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	return e.create(ctx, spec, "")
}

// create makes a sandbox, from an image where there is one.
func (e *Engine) create(ctx context.Context, spec sandbox.Spec, image string) (sandbox.Sandbox, error) {
	fail := func(err error) (sandbox.Sandbox, error) {
		return nil, errors.Join(fmt.Errorf("create sandbox %s: %w", spec.ID, err), e.Destroy(context.WithoutCancel(ctx), spec.ID))
	}
	r, err := e.dir.Create(spec, e.groups.Dirs(spec.ID))
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	users, err := hostroot.UsersOf(string(e.dir), spec.Workdir, spec.Mnt)
	if err != nil {
		return fail(err)
	}
	at, err := spec.Absolute()
	if err != nil {
		return fail(err)
	}
	program, err := e.program.Path()
	if err != nil {
		return fail(err)
	}
	o := keeper.Orders{ID: spec.ID, Mnt: at.Mnt, Rootfs: at.Root, Dir: e.dir.Path(spec.ID), Workdir: at.Workdir, Program: program, Hand: cmp.Or(e.hand, program), Users: users, Env: spec.Env, Limits: spec.Limits, Image: filepath.Join(e.dir.Path(spec.ID), "image"), From: image}
	if err := os.Mkdir(o.Image, 0o700); err != nil {
		return fail(err)
	}
	s, err := e.start(ctx, spec, r, o)
	if err != nil {
		return fail(err)
	}
	return s, nil
}

func (e *Engine) start(ctx context.Context, spec sandbox.Spec, r *record.Record, o keeper.Orders) (*guestSandbox, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ordersR.Close()
	defer ordersW.Close()
	line, theirs, err := newControl()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: o.Hand, Args: []string{keeper.Name}, Env: []string{}, Dir: "/",
		ExtraFiles: []*os.File{ordersR, theirs}, SysProcAttr: attributes(),
	}
	outside := spec.Limits
	// The guest's own kernel counts its processes; the host's, which are more,
	// only backs it up.
	if outside.Processes > 0 {
		outside.Processes = hostProcesses(outside.Processes)
	}
	group, err := e.groups.Make(spec.ID, outside)
	if err != nil {
		return nil, err
	}
	started := func(pid int) (err error) {
		ordersR.Close() // so that to write to a process that has ended fails
		if r.Process, err = record.Find(pid); err != nil {
			return err
		}
		if err := e.dir.Save(r); err != nil {
			return err
		}
		_, err = ordersW.Write(raw) // it waits for them before it does anything
		return errors.Join(err, ordersW.Close())
	}
	child, err := sandbox.Launch{
		Spec: spec, Inside: sandbox.GuestWorkdir, Cmd: cmd, Start: func() error { return group.Door().Start(cmd, nil) }, Started: started, Bounds: group, Scratch: o.Dir, Resumed: o.From != "",
		Free: func(ctx context.Context) error { return e.Destroy(ctx, spec.ID) },
	}.Run(ctx)
	if err != nil {
		return nil, errors.Join(err, line.conn.Close())
	}
	return &guestSandbox{Child: child, control: line, image: o.Image}, nil
}

// hostProcesses is how many processes and threads of the host gVisor may need
// for so many of a guest.
func hostProcesses(guest int) int { return 4*guest + 1000 }

// List implements sandbox.Engine.
func (e *Engine) List(context.Context) ([]sandbox.Info, error) { return e.dir.Infos() }

// Label implements sandbox.Engine.
func (e *Engine) Label(_ context.Context, id string, labels map[string]string) error {
	return e.dir.Label(id, labels)
}

// Destroy implements sandbox.Engine.
func (e *Engine) Destroy(ctx context.Context, id string) error { return e.dir.Destroy(ctx, id) }
