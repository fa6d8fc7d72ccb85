// Package process is the engine that isolates nothing: tools run as the
// worker's own user on the host, confined only by their own good manners. It is
// for code one would run oneself. It may call sandbox and hand.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
	"hearth/internal/hands/sandbox/record"
	"hearth/internal/hands/sandbox/reexec"
)

// entry is what the engine's hands are started as.
const entry = "hearth-hand"

func init() { reexec.Register(entry, run) }

// Engine implements sandbox.Engine.
type Engine struct {
	dir    record.Dir
	groups *cgroup.Tree
	log    *slog.Logger
}

// New makes the engine, keeping its state below stateDir. Groups may be nil: then
// there are no limits. A nil log is the default one.
func New(stateDir string, groups *cgroup.Tree, log *slog.Logger) *Engine {
	if log == nil {
		log = slog.Default()
	}
	return &Engine{dir: record.Dir(filepath.Join(stateDir, "process")), groups: groups, log: log}
}

// Name implements sandbox.Engine.
func (e *Engine) Name() string { return "process" }

// Check implements sandbox.Engine.
func (e *Engine) Check(context.Context) error {
	if _, err := os.Stat("/bin/bash"); err != nil {
		return fmt.Errorf("there is no /bin/bash; install bash: %w", err)
	}
	return nil
}

// Create implements sandbox.Engine.
func (e *Engine) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if spec.Root != "" {
		return nil, errors.New("create sandbox: the process engine makes no root from an image")
	}
	workdir, err := filepath.Abs(spec.Workdir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(workdir, 0o755); err != nil {
		return nil, fmt.Errorf("make the working directory: %w", err)
	}
	r, err := e.dir.Create(spec, e.groups.Dirs(spec.ID))
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	gateR, gateW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, e.Destroy(context.WithoutCancel(ctx), spec.ID))
	}
	defer gateR.Close()
	defer gateW.Close()
	cmd := &exec.Cmd{
		ExtraFiles: []*os.File{gateR},
		Path:       "/proc/self/exe", Args: []string{entry}, Dir: workdir, Env: sandbox.Environment(map[string]string{"HOME": workdir}, spec.Env, map[string]string{markName: spec.ID}),
		// Its own group, so that it is not hit by what is meant for the worker.
		// It ends when the worker does, for then its standard input ends.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	started := func(pid int) (err error) {
		if r.Process, err = record.Find(pid); err != nil {
			return err
		}
		_, err = fmt.Fprint(gateW, spec.Limits.OpenFiles)
		return errors.Join(err, e.dir.Save(r), gateW.Close())
	}
	outside := spec.Limits
	if outside.Processes > 0 {
		outside.Processes += handThreads
	}
	group, err := e.groups.Make(spec.ID, outside)
	if err == nil {
		var s *sandbox.Child
		s, err = sandbox.Launch{
			Spec: spec, Inside: workdir, Cmd: cmd, Start: func() error { return group.Door().Start(cmd, nil) }, Started: started, Bounds: group, Free: func(ctx context.Context) error { return e.Destroy(ctx, spec.ID) },
		}.Run(ctx)
		if err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, e.Destroy(context.WithoutCancel(ctx), spec.ID))
}

// handThreads are counted with the processes, and must not be lacking.
const handThreads = 32

// run is the hand: it serves tools until the worker closes the stream.
func run() {
	hand.Shrug()
	// Nothing is begun before the worker knows of this process and has bounded it.
	gate := os.NewFile(3, "gate")
	raw, _ := io.ReadAll(gate)
	gate.Close()
	var openFiles uint64
	_, _ = fmt.Sscan(string(raw), &openFiles) // nothing if the worker has ended
	workdir, err := os.Getwd()
	if err == nil {
		err = sandbox.Unprotect()
	}
	if err == nil && openFiles > 0 {
		err = hand.LimitFiles(openFiles)
	}
	if err == nil {
		// Orphans are left to the hand. Elsewhere they would be left to the first
		// process, which in a container may be the worker, and knows none of them.
		err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	if err == nil {
		err = hand.Serve(context.Background(), os.Stdin, os.Stdout, hand.Config{Workdir: workdir, Env: os.Environ(), Init: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// List implements sandbox.Engine.
func (e *Engine) List(context.Context) ([]sandbox.Info, error) { return e.dir.Infos() }

// Label implements sandbox.Engine.
func (e *Engine) Label(_ context.Context, id string, labels map[string]string) error {
	return e.dir.Label(id, labels)
}

// Destroy implements sandbox.Engine.
func (e *Engine) Destroy(ctx context.Context, id string) error {
	r, err := e.dir.Load(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	cgroup.Thaw(r.Cgroups)
	if err := killAll(ctx, r); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", id, err)
	}
	if err := errors.Join(cgroup.Remove(r.Cgroups), sandbox.RemoveAll(e.dir.Path(id))); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", id, err)
	}
	return nil
}

// killAll ends the hand and what it started: everything that carries the
// sandbox's mark in its environment, wherever it has gone. What forks while it
// is being looked for is stopped first, so that it cannot outrun the search.
func killAll(ctx context.Context, r *record.Record) error {
	if r.Process.Alive() {
		_ = syscall.Kill(r.Process.PID, syscall.SIGKILL) // it may have just ended
	}
	stopped := map[int]bool{}
	for quiet := 0; quiet < 2; {
		quiet++
		for _, pid := range marked(r) {
			if !stopped[pid] {
				quiet = 0
				stopped[pid] = true
				_ = syscall.Kill(pid, syscall.SIGSTOP) // likewise
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for len(stopped) > 0 {
		for pid := range stopped {
			_ = syscall.Kill(pid, syscall.SIGKILL) // likewise
		}
		clear(stopped)
		for _, pid := range marked(r) {
			stopped[pid] = true
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// markName is the variable by which processes of a sandbox are known.
const markName = "SANDBOX_ID"

// marked finds the processes of a sandbox. Those older than it are not looked
// into: to read a process's environment can take as long as that process likes.
func marked(r *record.Record) []int {
	found, _ := filepath.Glob("/proc/[0-9]*") // a constant pattern is well-formed
	var pids []int
	for _, dir := range found {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, err := record.Find(pid); err != nil || p.Start < r.Process.Start {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err == nil && strings.Contains("\x00"+string(raw)+"\x00", "\x00"+markName+"="+r.ID+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}
