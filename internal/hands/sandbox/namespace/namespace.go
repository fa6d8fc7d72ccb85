// Package namespace is the default engine: each sandbox is a set of Linux
// namespaces with a root of its own, system call and file rules, and no network
// but its own loopback. It starts in milliseconds and shares the host's kernel.
// It needs no daemon and works as root and as an ordinary user. It may call
// sandbox and hand.
package namespace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/record"
	"hearth/internal/hands/sandbox/reexec"
)

// Config of an Engine.
type Config struct {
	// StateDir holds the engine's scratch files.
	StateDir string
	// Groups is where control groups are made. Default nowhere: memory, CPU and
	// the number of processes are then not limited from outside.
	Groups *cgroup.Tree
	// Hand is the file of a smaller program with what runs in sandboxes. Default: the
	// file this process runs.
	Hand string
	// Log. Default slog.Default().
	Log *slog.Logger
}

// Engine implements sandbox.Engine.
type Engine struct {
	dir      record.Dir
	groups   *cgroup.Tree
	log      *slog.Logger
	launcher *launcher
}

// What processes are started as: entry a sandbox's first, launcherEntry what starts
// those, and usersEntry what stands for a sandbox's users.
const (
	entry         = "hearth-sandbox"
	launcherEntry = "hearth-launcher"
	usersEntry    = "hearth-users"
)

func init() {
	reexec.Register(entry, inside)
	reexec.Register(launcherEntry, launchAll)
	reexec.Register(usersEntry, beUsers)
}

// New makes the engine.
func New(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Engine{dir: record.Dir(filepath.Join(cfg.StateDir, "namespace")), groups: cfg.Groups, log: cfg.Log, launcher: launcherOf(cmp.Or(cfg.Hand, "/proc/self/exe"))}
}

// Name implements sandbox.Engine.
func (e *Engine) Name() string { return "namespace" }

// namespaces are what a sandbox has of its own.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Check implements sandbox.Engine.
func (e *Engine) Check(ctx context.Context) error {
	if _, err := os.Stat("/bin/bash"); err != nil {
		return fmt.Errorf("there is no /bin/bash; install bash: %w", err)
	}
	probe := exec.CommandContext(ctx, "/bin/true")
	probe.SysProcAttr = attributes(hostroot.Users{First: os.Getuid(), Count: 1})
	err := probe.Run()
	if err == nil {
		return nil
	}
	setting := func(name string) string {
		raw, _ := os.ReadFile("/proc/sys/" + name) // absent on most kernels
		return strings.TrimSpace(string(raw))
	}
	switch {
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return fmt.Errorf("AppArmor keeps ordinary users from making user namespaces; as root, run: sysctl kernel.apparmor_restrict_unprivileged_userns=0: %w", err)
	case setting("kernel/unprivileged_userns_clone") == "0":
		return fmt.Errorf("ordinary users may not make user namespaces; as root, run: sysctl kernel.unprivileged_userns_clone=1: %w", err)
	case setting("user/max_user_namespaces") == "0":
		return fmt.Errorf("user namespaces are switched off; as root, run: sysctl user.max_user_namespaces=10000: %w", err)
	}
	return fmt.Errorf("the kernel refuses new namespaces (inside a container, it must be run with more rights); the process engine works without them but isolates nothing: %w", err)
}

// attributes start a process in namespaces of its own, as their root.
func attributes(u hostroot.Users) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: namespaces, UidMappings: u.Map(), GidMappings: u.Map(), GidMappingsEnableSetgroups: u.Many(),
		Credential: &syscall.Credential{NoSetGroups: !u.Many()}, Setsid: true,
	}
}

// Create implements sandbox.Engine.
func (e *Engine) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	s, err := e.create(ctx, spec)
	if errors.Is(err, errLauncherGone) { // another is started
		return e.create(ctx, spec)
	}
	return s, err
}

func (e *Engine) create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
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
	if spec.Root != "" && !users.Many() {
		return fail(errors.New("only root can mount an image; run the worker as root, or with the gvisor engine"))
	}
	root, err := newRoot(e.dir.Path(spec.ID), spec, users)
	if err != nil {
		return fail(err)
	}
	s, err := e.start(ctx, spec, r, root)
	if err != nil {
		return fail(err)
	}
	return s, nil
}

func (e *Engine) start(ctx context.Context, spec sandbox.Spec, r *record.Record, root root) (*sandbox.Child, error) {
	orders, err := json.Marshal(instructions{Root: root, Prepared: root.Users.Many(), ID: spec.ID, Env: spec.Env, Processes: spec.Limits.Processes, OpenFiles: spec.Limits.OpenFiles})
	if err != nil {
		return nil, err
	}
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ordersR.Close()
	defer ordersW.Close()
	outside := spec.Limits
	if outside.Processes > 0 {
		// The hand counts the processes below it; this only backs it up, and must
		// not keep the hand from making the threads it needs.
		outside.Processes += handThreads
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
		_, err = ordersW.Write(orders) // it waits for them before it does anything
		return errors.Join(err, ordersW.Close())
	}
	first := &process{launcher: e.launcher, launch: launch{Root: root, Door: group.Door()}, orders: ordersR}
	return sandbox.Launch{
		Spec: spec, Inside: sandbox.GuestWorkdir, Process: first, Started: started, Bounds: group, Scratch: e.dir.Path(spec.ID), Shared: true,
		Free: func(ctx context.Context) error { return e.Destroy(ctx, spec.ID) },
	}.Run(ctx)
}

// handThreads is more than a hand ever has.
const handThreads = 100

// openProgram opens a program's file, or a copy if the sandbox's user owns it:
// should what runs in a sandbox ever reach the file of its first process, it
// must not be able to change it.
func openProgram(path string) (*os.File, error) {
	program, err := openHigh(path)
	if err != nil {
		return nil, err
	}
	var info unix.Stat_t
	if err := unix.Fstat(int(program.Fd()), &info); err != nil {
		return nil, errors.Join(err, program.Close())
	}
	if os.Getuid() == 0 || int(info.Uid) != os.Getuid() {
		return program, nil
	}
	defer program.Close()
	return sealedCopy(program)
}

// firstHigh is above the descriptors that a sandbox's first process is given,
// which take their places before it runs the program.
const firstHigh = 16

// openHigh opens a file as a descriptor that those given to a child do not cover.
func openHigh(path string) (*os.File, error) {
	low, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer low.Close()
	fd, err := unix.FcntlInt(low.Fd(), unix.F_DUPFD_CLOEXEC, firstHigh)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// sealedCopy is a program in memory, which nobody can change.
func sealedCopy(program *os.File) (*os.File, error) {
	fd, err := unix.MemfdCreate("hearth", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	copied := os.NewFile(uintptr(fd), "hearth")
	defer copied.Close()
	if _, err := io.Copy(copied, program); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return nil, err
	}
	// Written through one description and run from another, or it would be busy.
	return openHigh(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// List implements sandbox.Engine.
func (e *Engine) List(context.Context) ([]sandbox.Info, error) { return e.dir.Infos() }

// Label implements sandbox.Engine.
func (e *Engine) Label(_ context.Context, id string, labels map[string]string) error {
	return e.dir.Label(id, labels)
}

// Destroy implements sandbox.Engine.
func (e *Engine) Destroy(ctx context.Context, id string) error { return e.dir.Destroy(ctx, id) }
