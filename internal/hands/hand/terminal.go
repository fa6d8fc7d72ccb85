package hand

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Terminal is a terminal in the sandbox that a program runs in, beside the
// session's own shell: an operator's.
type Terminal struct {
	// ID is the caller's name for it, unique among those open on one connection.
	ID string `json:"id"`
	// Command is what runs in it. Default an interactive bash.
	Command []string `json:"command,omitempty"`
	// Term is the kind of terminal, as in TERM.
	Term string `json:"term,omitempty"`
	Size Size   `json:"size"`
}

// Size is that of a terminal, in characters.
type Size struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// screen is what happens on a terminal, in either direction.
type screen struct {
	Data []byte `json:"data,omitempty"` // typed, or shown
	Size *Size  `json:"size,omitempty"` // worker: it has this size now
	Took bool   `json:"took,omitempty"` // worker: a piece of what was shown has been dealt with
	Exit *int   `json:"exit,omitempty"` // hand: the program has ended, and this is the last word
	Err  string `json:"err,omitempty"`  // hand, with Exit: why it never began
}

// What may be on its way of one terminal: pieces of output that the worker has not
// dealt with, and pieces of input that the program has not read. The other calls
// of a sandbox share the connection and must not wait for it.
const (
	maxShownPieces = 16
	maxTypedPieces = 1024
	maxPiece       = 32 << 10 // bytes
)

// terminal is one that is open, on the hand's side.
type terminal struct {
	cmd     *exec.Cmd
	control *os.File // the side that is not the program's
	typed   chan []byte
	took    chan struct{}
	gone    chan struct{} // closed when the program has ended
	hung    chan struct{} // closed when it is to end
	once    sync.Once     // of closing it
}

// terminals are those that are open.
type terminals struct {
	shell *shell // whose environment and limits they have
	out   *frameWriter
	work  sync.WaitGroup

	mu   sync.Mutex
	open map[string]*terminal // by id; guarded by mu
}

// begin opens a terminal and runs its program.
func (ts *terminals) begin(ctx context.Context, p Terminal) {
	t, err := ts.start(p)
	if err != nil {
		failed := -1
		_ = ts.out.write(frame{Kind: frameScreen, ID: p.ID, Screen: &screen{Exit: &failed, Err: err.Error()}})
		return
	}
	ts.mu.Lock()
	ts.open[p.ID] = t
	ts.mu.Unlock()
	ended := make(chan struct{})
	ts.work.Go(t.await)
	ts.work.Go(func() { t.feed(ended) })
	ts.work.Go(func() {
		defer close(ended)
		t.show(ctx, p.ID, ts.out)
		t.hangUp()
		<-t.gone
		ts.shell.orphans.forget(t.cmd.Process.Pid)
		t.control.Close()
		ts.mu.Lock()
		delete(ts.open, p.ID)
		ts.mu.Unlock()
		code := exitStatus(t.cmd)
		_ = ts.out.write(frame{Kind: frameScreen, ID: p.ID, Screen: &screen{Exit: &code}})
	})
}

func (ts *terminals) start(p Terminal) (*terminal, error) {
	ts.mu.Lock()
	_, twice := ts.open[p.ID]
	ts.mu.Unlock()
	if twice {
		return nil, fmt.Errorf("terminal %s is open already", p.ID)
	}
	control, program, err := openTerminal()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer program.Close()
	if err := resize(control, p.Size); err != nil {
		return nil, errors.Join(err, control.Close())
	}
	command := p.Command
	if len(command) == 0 {
		command = []string{"/bin/bash", "-i"}
	}
	// Its own limit, as the session's shell has it.
	bound := `exec "$@"`
	if ts.shell.processes > 0 {
		bound = fmt.Sprintf("ulimit -u %d; ", ts.shell.processes) + bound
	}
	cmd := exec.Command("/bin/bash", append([]string{"--noprofile", "--norc", "-c", bound, "bash"}, command...)...)
	cmd.Dir, cmd.Env = ts.shell.workdir, append(ts.shell.env[:len(ts.shell.env):len(ts.shell.env)], "TERM="+p.Term)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := ts.shell.orphans.start(ts.shell.start, cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", command[0], err), control.Close())
	}
	return &terminal{cmd: cmd, control: control, typed: make(chan []byte, maxTypedPieces), took: make(chan struct{}, maxShownPieces), gone: make(chan struct{}), hung: make(chan struct{})}, nil
}

// openTerminal opens a terminal. Its controlling side can be read with a deadline.
func openTerminal() (control, program *os.File, err error) {
	blocking, program, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, nil, errors.Join(err, program.Close())
	}
	return os.NewFile(uintptr(fd), blocking.Name()), program, nil
}

func resize(control *os.File, s Size) error {
	return WithDescriptor(control, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Columns})
	})
}

// await waits for the end of the program. What it has left in the background may
// have the terminal open still, and does not keep it.
func (t *terminal) await() {
	_ = t.cmd.Wait()                          // its status is read from ProcessState
	_ = t.control.SetReadDeadline(time.Now()) // which wakes show
	close(t.gone)                             // show sets a later deadline then
}

// What a program showed last is on its way through the kernel for so long, and
// takes no more pieces than that.
const (
	lastShown  = 200 * time.Millisecond
	lastPieces = 64
)

// show sends on what the program shows, until it has ended or closed the terminal,
// or ctx ends.
func (t *terminal) show(ctx context.Context, id string, out *frameWriter) {
	stop := context.AfterFunc(ctx, t.hangUp)
	defer stop()
	buffer := make([]byte, maxPiece)
	last := 0 // pieces since the program ended
	for onTheWay := 0; last <= lastPieces; onTheWay++ {
		if onTheWay == maxShownPieces {
			select {
			case <-t.took:
				onTheWay--
			case <-t.hung:
				return
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-t.gone:
			last++
			_ = t.control.SetReadDeadline(time.Now().Add(lastShown)) // one has been set before
		default:
		}
		n, err := t.control.Read(buffer)
		if n > 0 && out.write(frame{Kind: frameScreen, ID: id, Screen: &screen{Data: buffer[:n]}}) != nil {
			return
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && last == 0:
			onTheWay-- // the program has just ended
		case err != nil:
			return // EIO: nobody has it open any more
		}
	}
}

// feed gives the program what is typed.
func (t *terminal) feed(ended <-chan struct{}) {
	for {
		select {
		case b := <-t.typed:
			_, _ = t.control.Write(b) // a program that has ended reads nothing
		case <-ended:
			return
		}
	}
}

// hangUp ends what runs in the terminal, unless that has ended: its number may then
// be another's.
func (t *terminal) hangUp() {
	t.once.Do(func() { close(t.hung) })
	select {
	case <-t.gone:
		return
	default:
	}
	// Not every kernel tells those that a shell has put into groups of their own.
	for _, pid := range inSession(t.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGHUP) // it may have ended
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	_ = syscall.Kill(-t.cmd.Process.Pid, syscall.SIGKILL)
}

// inSession lists the processes of the session that one leads.
func inSession(leader int) (pids []int) {
	entries, _ := os.ReadDir("/proc") // without it, the leader's group is all that is known
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if session, err := unix.Getsid(pid); err == nil && session == leader {
			pids = append(pids, pid)
		}
	}
	return pids
}

// take takes in what the worker says of a terminal.
func (ts *terminals) take(id string, s screen) {
	ts.mu.Lock()
	t, ok := ts.open[id]
	ts.mu.Unlock()
	if !ok {
		return // it has just ended
	}
	switch {
	case s.Size != nil:
		_ = resize(t.control, *s.Size) // of a terminal that has just ended
	case s.Took:
		select {
		case t.took <- struct{}{}:
		default: // more than was shown
		}
	case len(s.Data) > 0:
		select {
		case t.typed <- s.Data:
		default: // the program reads nothing of so much
		}
	}
}

// cancel ends a terminal.
func (ts *terminals) cancel(id string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t, ok := ts.open[id]; ok {
		t.hangUp()
	}
}

// closeAll ends all terminals.
func (ts *terminals) closeAll() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.open {
		t.hangUp()
	}
}
