package namespace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/reexec"
)

// instructions are what a sandbox's first process is told, on descriptor 3.
type instructions struct {
	ID   string
	Root root
	// Prepared says that the root has been made and entered already, and the network.
	Prepared  bool
	Env       map[string]string
	Processes int // 0 for the default
	OpenFiles int // 0 for the default
}

// inside is the sandbox's first process: it finishes the walls from within,
// gives up what it could do to them, and is the hand.
func inside() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() error {
	// Beside the rest, for it mostly waits. No program of the sandbox runs yet.
	shrugged := make(chan struct{})
	go func() {
		defer close(shrugged)
		hand.Shrug()
	}()
	if err := reexec.CloseInherited(4); err != nil {
		return err
	}
	var in instructions
	orders := os.NewFile(3, "instructions")
	if err := json.NewDecoder(orders).Decode(&in); err != nil {
		return fmt.Errorf("read the instructions: %w", err)
	}
	orders.Close()
	if !in.Prepared {
		if err := errors.Join(in.Root.pivot(), loopbackUp()); err != nil {
			return err
		}
	}
	var launch func(*exec.Cmd) error
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"mount the kernel's own processes", mountProc},
		{"bound what the kernel counts by user", func() error { return errors.Join(boundUser(in.Root.Users.Many()), lowerLimits(ofOne)) }},
		{"mount the kernel's files", mountInside},
		{"name the host", func() error { return unix.Sethostname([]byte("sandbox")) }},
		{"set limits", func() error { return hand.LimitFiles(uint64(cmp.Or(in.OpenFiles, defaultOpenFiles))) }},
		{"go to the working directory", func() error { return unix.Chdir(sandbox.GuestWorkdir) }},
		{"prepare to start the shell", func() (err error) { launch, err = newLauncher(); return err }},
		{"give up rights", func() error { return giveUp(in.Root.Image != "") }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	<-shrugged
	return hand.Serve(context.Background(), os.Stdin, os.Stdout, hand.Config{
		Workdir: sandbox.GuestWorkdir, Beside: sandbox.GuestMnt, Env: sandbox.Environment(in.Env, map[string]string{"SANDBOX_ID": in.ID}), Init: true, Start: launch, Processes: cmp.Or(in.Processes, defaultProcesses),
	})
}

// secretive are files of /proc that tell of the host or act on it.
var secretive = []string{"acpi", "asound", "bus", "fs", "irq", "kcore", "keys", "latency_stats", "scsi", "sched_debug", "sysrq-trigger", "timer_list", "kallsyms", "kmsg", "config.gz"}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func mountProc() error { return hostroot.Mount("proc", "/proc", "proc", plain, "") }

// needless is what the kernel counts by user and no program inside needs.
var needless = []string{
	"max_fanotify_groups", "max_fanotify_marks", "max_user_namespaces", "max_pid_namespaces", "max_net_namespaces",
	"max_mnt_namespaces", "max_ipc_namespaces", "max_uts_namespaces", "max_cgroup_namespaces", "max_time_namespaces",
}

// watches are what watching files takes, by where the host's own limit is. Where all
// sandboxes of a worker are one user, each may have a share of it.
var watches = map[string]string{
	"max_inotify_instances": "/proc/sys/fs/inotify/max_user_instances",
	"max_inotify_watches":   "/proc/sys/fs/inotify/max_user_watches",
}

// watchShare is that share: one in so many.
const watchShare = 8

// boundUser lowers limits of the sandbox's user namespace. A kernel without one
// of them does not count that.
func boundUser(many bool) error {
	limits := map[string]int{}
	for _, name := range needless {
		limits[name] = 0
	}
	for name, whole := range watches {
		raw, err := os.ReadFile(whole)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		limit, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			return err
		}
		if !many {
			limit = max(1, limit/watchShare)
		}
		limits[name] = limit
	}
	for name, limit := range limits {
		err := os.WriteFile("/proc/sys/user/"+name, []byte(strconv.Itoa(limit)), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// What processes may hold of this, the kernel counts for their user, and once more for
// the user who has made the namespace they are in, which is one for all sandboxes of a
// worker that is not root. So the users of a sandbox may together have a part of what
// the worker may, and each a part of that, one in so many.
var (
	ofAll = map[int]uint64{unix.RLIMIT_SIGPENDING: 4, unix.RLIMIT_MSGQUEUE: 4}
	ofOne = map[int]uint64{unix.RLIMIT_SIGPENDING: 8, unix.RLIMIT_MSGQUEUE: 2}
)

// lowerLimits lowers limits of this process, and of what it will start, to a part.
func lowerLimits(parts map[int]uint64) error {
	for limit, part := range parts {
		var have unix.Rlimit
		if err := unix.Getrlimit(limit, &have); err != nil {
			return err
		}
		if have.Max == unix.RLIM_INFINITY {
			continue // there is no end of it
		}
		if err := unix.Setrlimit(limit, &unix.Rlimit{Cur: have.Max / part, Max: have.Max / part}); err != nil {
			return err
		}
	}
	return nil
}

// maxTerminals is how many terminals a sandbox may have open. A host has some
// thousand, for all on it.
const maxTerminals = "128"

// mountInside mounts what only the sandbox itself may: its own processes, its
// own terminals, its own shared memory.
func mountInside() error {
	if err := hostroot.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,max="+maxTerminals); err != nil {
		return err
	}
	if err := hostroot.Mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m"); err != nil {
		return err
	}
	if err := hostroot.Bind("/proc/sys", "/proc/sys", unix.MS_RDONLY|plain); err != nil {
		return err
	}
	for _, name := range secretive {
		path := "/proc/" + name
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.IsDir() {
			err = hostroot.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|plain, "size=0,nr_inodes=1,mode=0")
		} else {
			err = hostroot.Mount("/dev/null", path, "", unix.MS_BIND, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The limits of a sandbox that is given none.
const (
	defaultProcesses = 4096
	defaultOpenFiles = 65536
)
