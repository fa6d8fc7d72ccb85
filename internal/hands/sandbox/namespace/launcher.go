package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

// launcher is a small process that starts the first processes of sandboxes. To
// make a process in a user namespace of its own, the kernel first copies the map of
// the memory of the one that makes it: that of a worker is large, which takes
// milliseconds, and has its secrets in it. The launcher ends with the worker.
type launcher struct {
	path string

	mu   sync.Mutex
	line *net.UnixConn // nil before the first launch; guarded by mu
}

// launchers are those of this process, one for each program.
var launchers sync.Map

func launcherOf(program string) *launcher {
	l, _ := launchers.LoadOrStore(program, &launcher{path: program})
	return l.(*launcher)
}

// launch is what the launcher is told, beside four files: where it answers, and
// the standard input, output and error and the instructions of the process.
type launch struct {
	Root root
	Door cgroup.Door
}

// launched is its answer. With it comes a file that stands for the process.
type launched struct {
	PID int    `json:",omitempty"`
	Err string `json:",omitempty"`
}

// launchFiles is how many files come with a launch, and maxLaunch how long one
// may be, in bytes.
const (
	launchFiles = 5
	maxLaunch   = 64 << 10
)

// errLauncherGone is returned where the launcher ended before it answered. What it
// may have started by then has no orders, and ends when it is to get none.
var errLauncherGone = errors.New("the launcher was killed")

// start has a process started, and returns what stands for it. One that is started
// after ctx has ended is without orders, and ends.
func (l *launcher) start(ctx context.Context, what launch, files ...*os.File) (pid int, handle *os.File, err error) {
	raw, err := json.Marshal(what)
	if err != nil {
		return 0, nil, err
	}
	ours, theirs, err := linePair()
	if err != nil {
		return 0, nil, err
	}
	defer ours.Close()
	err = l.send(raw, append([]*os.File{theirs}, files...))
	theirs.Close()
	if err != nil {
		return 0, nil, fmt.Errorf("reach the launcher: %w", err)
	}
	defer context.AfterFunc(ctx, func() { ours.Close() })()
	raw, got, err := receive(ours, 1)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		return 0, nil, errLauncherGone
	}
	if err != nil {
		return 0, nil, fmt.Errorf("hear from the launcher: %w", err)
	}
	var answer launched
	if err := json.Unmarshal(raw, &answer); err != nil {
		return 0, nil, err
	}
	if answer.Err != "" {
		return 0, nil, errors.New(answer.Err)
	}
	if len(got) != 1 {
		return 0, nil, errors.New("this kernel has no file descriptors for processes; Linux 5.2 has")
	}
	return answer.PID, got[0], nil
}

// send sends a message to the launcher, which it starts where none runs.
func (l *launcher) send(raw []byte, files []*os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line != nil {
		err := send(l.line, raw, files...)
		if err == nil || !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			return err
		}
		// It was killed, which harms nobody.
		l.line.Close()
		l.line = nil
	}
	line, err := l.run()
	if err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	l.line = line
	return send(line, raw, files...)
}

// run starts the launcher.
func (l *launcher) run() (*net.UnixConn, error) {
	program, err := openProgram(l.path)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	ours, theirs, err := linePair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", program.Fd()), Args: []string{launcherEntry}, Env: []string{}, Dir: "/",
		Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
		// Its own group, so that it is not hit by what is meant for the worker.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	go func() { _ = cmd.Wait() }() // how it ended is of no use
	return ours, nil
}

// launchAll is the launcher's main: it starts what it is told to until the worker
// has gone.
func launchAll() {
	line, err := lineOf(os.NewFile(3, "line"))
	if err == nil {
		err = errors.Join(lowerLimits(ofAll), sandbox.Unprotect())
	}
	var networks <-chan network
	if os.Getuid() == 0 {
		networks = makeNetworks()
	}
	for err == nil {
		var raw []byte
		var files []*os.File
		if raw, files, err = receive(line, launchFiles); err == nil {
			go answer(raw, files, networks)
		}
	}
	if !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "hearth: the launcher of sandboxes:", err)
		os.Exit(1)
	}
}

// answer starts a process, says so, and waits for its end.
func answer(raw []byte, files []*os.File, networks <-chan network) {
	cmd, handle, err := startFirst(raw, files[1:], networks)
	said := launched{}
	if err != nil {
		said.Err = err.Error()
	} else {
		said.PID = cmd.Process.Pid
	}
	raw, _ = json.Marshal(said) // a number and a text
	if line, err := lineOf(files[0]); err == nil {
		if handle != nil {
			_ = send(line, raw, handle)
			handle.Close()
		} else {
			_ = send(line, raw)
		}
		line.Close()
	}
	for _, f := range files[1:] {
		f.Close()
	}
	if cmd != nil {
		_ = cmd.Wait() // how it ended is of no use
	}
}

func startFirst(raw []byte, files []*os.File, networks <-chan network) (*exec.Cmd, *os.File, error) {
	var l launch
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, nil, err
	}
	handle := -1
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{entry}, Env: []string{}, Dir: "/",
		Stdin: files[0], Stdout: files[1], Stderr: files[2], ExtraFiles: files[3:], SysProcAttr: attributes(l.Root.Users),
	}
	cmd.SysProcAttr.PidFD = &handle
	var before func() error // the child makes its root and network itself
	if l.Root.Users.Many() {
		// Only root can reach every directory and lay out the mounts; the child is
		// no longer root. So the root is made here, on a thread in a mount
		// namespace of its own, from which the child inherits it.
		cmd.SysProcAttr.Cloneflags &^= unix.CLONE_NEWNET
		before = func() error {
			if err := (<-networks).enter(); err != nil {
				return err
			}
			if err := l.Root.enter(); err != nil {
				return err
			}
			return become(l.Root.Users.First)
		}
	}
	if err := l.Door.Start(cmd, before); err != nil {
		return nil, nil, err
	}
	return cmd, os.NewFile(uintptr(handle), "process"), nil
}

// become makes the calling thread another user's, with the rights of root it has. Much
// that the kernel counts by user it counts for whoever made the user namespace, too:
// so what a sandbox takes of it is taken from nobody else's.
func become(uid int) error {
	err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0)
	if errors.Is(err, unix.EPERM) {
		return nil // a container's root may not; its sandboxes share what is root's
	}
	if err != nil {
		return fmt.Errorf("keep the rights of root: %w", err)
	}
	// Not unix.Setresuid, which does it to all threads.
	keep := ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("become the sandbox's user: %w", errno)
	}
	return nil
}

// secbitNoSetuidFixup is from <linux/securebits.h>: capabilities do not follow the user.
const secbitNoSetuidFixup = 1 << 2

// process is the first process of a sandbox, a child of the launcher.
type process struct {
	launcher *launcher
	launch   launch
	orders   *os.File
	stdout   *os.File
	handle   *os.File      // stands for the process
	noted    chan struct{} // closed when all it said on its standard error has been read
}

// Start implements sandbox.Process.
func (p *process) Start(ctx context.Context, notes io.Writer) (pid int, stdin io.WriteCloser, stdout io.Reader, err error) {
	var ends [6]*os.File // of three pipes: to read, to write
	for i := 0; i < len(ends); i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(ends[:i])
			return 0, nil, nil, err
		}
		ends[i], ends[i+1] = r, w
	}
	pid, p.handle, err = p.launcher.start(ctx, p.launch, ends[0], ends[3], ends[5], p.orders)
	if err != nil {
		closeAll(ends[:])
		return 0, nil, nil, err
	}
	closeAll([]*os.File{ends[0], ends[3], ends[5]})
	p.noted = make(chan struct{})
	go func() {
		defer close(p.noted)
		defer ends[4].Close()
		_, _ = io.Copy(notes, ends[4]) // what was read is all that can be told
	}()
	p.stdout = ends[2]
	return pid, ends[1], p.stdout, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Kill implements sandbox.Process.
func (p *process) Kill() {
	_ = hand.WithDescriptor(p.handle, func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
}

// Wait implements sandbox.Process.
func (p *process) Wait() {
	<-p.noted
	_ = hand.WithDescriptor(p.handle, func(fd int) error {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
	closeAll([]*os.File{p.stdout, p.handle})
}

// linePair makes a line of messages between two processes.
func linePair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "line")
	if ours, err = lineOf(os.NewFile(uintptr(fds[0]), "line")); err != nil {
		theirs.Close()
	}
	return ours, theirs, err
}

// lineOf makes a line of a file, which it closes.
func lineOf(file *os.File) (*net.UnixConn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

func send(line *net.UnixConn, raw []byte, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := line.WriteMsgUnix(raw, unix.UnixRights(fds...), nil)
	return err
}

// receive takes a message and the files that come with it: all of them, or fewer
// with a message of an error. The end of the line is io.EOF.
func receive(line *net.UnixConn, most int) (raw []byte, files []*os.File, err error) {
	raw, rights := make([]byte, maxLaunch), make([]byte, unix.CmsgSpace(4*most))
	n, rightsLen, flags, _, err := line.ReadMsgUnix(raw, rights)
	switch {
	case err != nil:
		return nil, nil, err
	case n == 0:
		return nil, nil, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, nil, errors.New("a message was cut short")
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err != nil {
		return nil, nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return raw[:n], files, nil
}
