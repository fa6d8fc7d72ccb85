// Package cgroup bounds what sandboxes use of a host, by control groups of
// either version. It owns the groups called hearth-*, and may call sandbox.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
)

// prefix begins the name of every group of ours.
const prefix = "hearth-"

// The controllers there is a use for.
const (
	memory  = "memory"
	cpu     = "cpu"
	pids    = "pids"
	freezer = "freezer"
)

// Tree is where this process may make groups.
type Tree struct {
	version int
	// parents are the groups below which ours are made, by controller. With
	// version 2 they are all the same.
	parents map[string]string
}

// Lacks names the limits that cannot be enforced, in plain words.
func (t *Tree) Lacks() (limits []string) {
	for _, l := range []struct{ controller, limit string }{{memory, "memory"}, {cpu, "CPU"}, {pids, "processes"}} {
		if t == nil || t.parents[l.controller] == "" {
			limits = append(limits, l.limit)
		}
	}
	return limits
}

// Version is that of the host's control groups: 1, 2, or 0 where there is none
// to be used.
func (t *Tree) Version() int {
	if t == nil {
		return 0
	}
	return t.version
}

// Group is a sandbox's control group. A nil one bounds nothing.
type Group struct {
	tree   *Tree
	id     string
	limits sandbox.Limits
	dirs   map[string]string // by controller
}

// Make makes the group of a sandbox. What the host does not allow to be limited
// is not; see Lacks.
func (t *Tree) Make(id string, limits sandbox.Limits) (*Group, error) {
	if t == nil || len(t.parents) == 0 {
		return nil, nil
	}
	g := &Group{tree: t, id: id, limits: limits, dirs: map[string]string{}}
	for controller := range t.parents {
		dir := t.dir(controller, id)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("make a control group: %w", err), Remove(t.Dirs(id)))
		}
		g.dirs[controller] = dir
	}
	if err := g.set(); err != nil {
		return nil, errors.Join(err, Remove(t.Dirs(id)))
	}
	return g, nil
}

// Dirs are the directories of the group that Make makes, by which Remove removes
// it.
func (t *Tree) Dirs(id string) (dirs []string) {
	if t == nil {
		return nil
	}
	for controller := range t.parents {
		if dir := t.dir(controller, id); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (t *Tree) dir(controller, id string) string {
	return filepath.Join(t.parents[controller], prefix+id)
}

// period is that over which the kernel counts a group's CPU time, in microseconds.
const period = 100_000

// socketShare is what part of its memory a sandbox may have wait in sockets, one in so
// many, where that comes on top of the rest.
const socketShare = 8

// setting is a file of a group and what to write to it.
type setting struct{ controller, file, value string }

func (g *Group) set() error {
	var settings []setting
	add := func(controller, file, value string) {
		settings = append(settings, setting{controller, file, value})
	}
	one := g.tree.version == 1
	if bytes := strconv.FormatInt(g.limits.MemoryBytes, 10); g.limits.MemoryBytes > 0 {
		if one {
			add(memory, "memory.limit_in_bytes", bytes)
			add(memory, "memory.memsw.limit_in_bytes", bytes)
			// What waits in sockets is not part of the rest here.
			add(memory, "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(g.limits.MemoryBytes/socketShare, 10))
		} else {
			add(memory, "memory.max", bytes)
			add(memory, "memory.swap.max", "0")
		}
	}
	if g.limits.CPUs > 0 {
		quota := max(1000, int(g.limits.CPUs*period))
		if one {
			add(cpu, "cpu.cfs_period_us", strconv.Itoa(period))
			add(cpu, "cpu.cfs_quota_us", strconv.Itoa(quota))
		} else {
			add(cpu, "cpu.max", fmt.Sprintf("%d %d", quota, period))
		}
	}
	if g.limits.Processes > 0 {
		add(pids, "pids.max", strconv.Itoa(g.limits.Processes))
	}
	for _, s := range settings {
		dir, ok := g.dirs[s.controller]
		if !ok {
			continue
		}
		err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0)
		// Kernels without accounting of swap, or of sockets, lack its files.
		optional := strings.Contains(s.file, "sw") || strings.Contains(s.file, "tcp")
		if err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("limit %s: %w", s.controller, err)
		}
	}
	return nil
}

// Door is the way into a Group, for another process to start something in it. The
// zero Door leads nowhere.
type Door struct {
	Version int
	Dirs    []string // one with version 2
}

// Door is the way into the group.
func (g *Group) Door() Door {
	if g == nil {
		return Door{}
	}
	return Door{g.tree.version, g.tree.Dirs(g.id)}
}

// Start starts a command inside. Before, if there is one, is called ahead of it on
// the thread that starts it, which ends afterwards: what before changes of the
// thread is inherited by the command, and by nothing else.
//
// To be born in a group costs nothing. To be moved there, the whole process, takes
// milliseconds, while the kernel waits for all processors.
func (d Door) Start(cmd *exec.Cmd, before func() error) error {
	if d.Version == 2 {
		dir, err := os.Open(d.Dirs[0])
		if err != nil {
			return fmt.Errorf("open the control group: %w", err)
		}
		defer dir.Close()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if d.Version != 1 && before == nil {
		return cmd.Start()
	}
	return OnThread(func() error {
		if d.Version == 1 {
			if err := d.enter(); err != nil {
				return err
			}
		}
		if before != nil {
			if err := before(); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
}

// enter puts the calling thread into a group of version 1.
func (d Door) enter() error {
	for _, dir := range d.Dirs {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter the control group: %w", err)
		}
	}
	return nil
}

// OnThread runs fn on a thread that ends with it.
func OnThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end before the process does. While it is locked
			// to this, another one does it.
			done <- OnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn() // never unlocked
	}()
	return <-done
}

// Hits implements sandbox.Bounds.
func (g *Group) Hits() sandbox.Hits {
	if g == nil {
		return sandbox.Hits{}
	}
	oom := "memory.oom_control"
	if g.tree.version == 2 {
		oom = "memory.events"
	}
	return sandbox.Hits{Memory: g.count(memory, oom, "oom_kill"), Processes: g.count(pids, "pids.events", "max")}
}

// count reads a number from a file of lines "name number"; 0 if there is none.
func (g *Group) count(controller, file, name string) int64 {
	dir, ok := g.dirs[controller]
	if !ok {
		return 0
	}
	raw, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0 // a kernel without it, or the group is gone
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == name {
			n, _ := strconv.ParseInt(fields[1], 10, 64) // the kernel writes numbers
			return n
		}
	}
	return 0
}

// ErrCannotFreeze tells that the host has no means to pause a sandbox.
var ErrCannotFreeze = errors.New("this host's control groups cannot freeze processes")

// Freeze stops all processes of the group where they are, or lets them go on.
func (g *Group) Freeze(frozen bool) error {
	if g == nil || g.dirs[freezer] == "" {
		return ErrCannotFreeze
	}
	file, value := "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	done := func() bool { return strings.TrimSpace(g.read(file)) == value }
	if g.tree.version == 2 {
		file, value = "cgroup.freeze", map[bool]string{true: "1", false: "0"}[frozen]
		done = func() bool { return g.count(freezer, "cgroup.events", "frozen") == map[bool]int64{true: 1}[frozen] }
	}
	for deadline := time.Now().Add(settles); ; time.Sleep(time.Millisecond) {
		if err := os.WriteFile(filepath.Join(g.dirs[freezer], file), []byte(value), 0); err != nil {
			return fmt.Errorf("freeze or thaw the sandbox: %w", err)
		}
		if done() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the sandbox was not frozen or thawed within %v", settles)
		}
	}
}

func (g *Group) read(file string) string {
	raw, _ := os.ReadFile(filepath.Join(g.dirs[freezer], file)) // what is unread is not done
	return string(raw)
}

// settles is how long the kernel may take to do what it was told.
const settles = 5 * time.Second

// Thaw lets the processes of a group go on, so that they can be killed: those
// that version 1 has frozen cannot.
func Thaw(dirs []string) {
	for _, dir := range dirs {
		_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0) // most have none
	}
}

// Remove removes groups in which every process has ended, or is about to.
func Remove(dirs []string) error {
	var failed []error
	for _, dir := range dirs {
		if !strings.HasPrefix(filepath.Base(dir), prefix) {
			failed = append(failed, fmt.Errorf("%s is no control group of a sandbox", dir))
			continue
		}
		err := remove(dir)
		if err != nil {
			failed = append(failed, fmt.Errorf("remove control group: %w", err))
		}
	}
	return errors.Join(failed...)
}

// sweepAge is how old a group must be to have had time to get its processes.
const sweepAge = time.Minute

// Sweep removes groups without processes, left by workers that were killed and
// whose state is gone. The kernel refuses to remove those in use.
func (t *Tree) Sweep() {
	if t == nil {
		return
	}
	for _, parent := range t.parents {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue // tried again when a worker next starts
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if err == nil && len(entry.Name()) == len(prefix)+idLength && strings.HasPrefix(entry.Name(), prefix) && time.Since(info.ModTime()) > sweepAge {
				_ = unix.Rmdir(filepath.Join(parent, entry.Name()))
			}
		}
	}
}

// idLength is that of a sandbox's id.
const idLength = 26

func remove(dir string) error {
	for deadline := time.Now().Add(settles); ; time.Sleep(time.Millisecond) {
		// Not os.Remove, which tries to unlink first.
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		// A process that has been waited for may stay in its group a moment longer.
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}
