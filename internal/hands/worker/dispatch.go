package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hearth/api"
)

// Script is run for each session a worker claims, by a worker that serves none
// itself. It begins a worker for that one session, anywhere, which takes the
// lease and ends the item. Whether the script waits for that worker or not,
// nothing is done here to an item that somebody holds.
type Script struct {
	// Path is the program. Required.
	Path string
	// Lease is for how long each lease is taken before the script starts, which
	// leaves its worker that much time to begin. Zero leaves taking the lease to
	// the script's worker, and the time to what the server allows.
	Lease time.Duration
	// Output gets what scripts print. It is a file so that what a script leaves
	// running can go on printing when the script has exited. Default none.
	Output *os.File
}

// dispatch has a script serve an item, and stays with it until the item is over.
func (w *Worker) dispatch(ctx context.Context, item Item) error {
	log := w.Log.With("work", item.WorkID, "session", item.SessionID)
	wire := w.wire.with(w.token(item))
	superseded, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	a := &activation{Worker: w, item: item, wire: wire, lease: newLease(item, wire), log: log, cancel: cancel, ended: make(chan struct{})}
	earlier := w.enter(a)
	defer w.leave(a)
	if item.Kind != "session" {
		return a.handBack(ctx)
	}
	for _, other := range earlier {
		select {
		case <-other.ended:
		case <-w.draining:
			return a.handBack(ctx)
		}
	}
	if item.Secret == "" {
		log.Warn("the item has no secret, so its script's worker needs an environment key of its own")
	}
	s, err := a.start(ctx)
	if err != nil {
		log.Error("could not run the script; handing the session back", "error", err)
		return errors.Join(err, a.handBack(ctx))
	}
	err = s.attend(ctx, superseded.Done())
	switch {
	case err == nil:
		return a.watchOver(ctx, superseded.Done())
	case s.asked:
		log.Info("ended a script", "how", err)
	default:
		log.Error("the script failed; handing the session back", "exit_code", exitCode(err), "error", err)
	}
	return errors.Join(err, a.handBack(ctx))
}

// handBack ends the item, so that its session is offered again if it still
// waits. The item's own credential is good for this claim only, so that what
// somebody else has claimed meanwhile is not harmed.
func (a *activation) handBack(ctx context.Context) error {
	err := a.lease.stop(context.WithoutCancel(ctx))
	if err == nil || isRefusal(err) {
		return nil // it is over, one way or the other
	}
	a.log.Warn("could not hand a session back; it will be offered again by itself", "error", err)
	return err
}

// isRefusal tells whether err is an answer that asking again will not change.
func isRefusal(err error) bool {
	var answer *refused
	return errors.As(err, &answer) && !transient(err)
}

// script is a script that runs.
type script struct {
	*activation
	pid    int
	exited chan error
	asked  bool // it has been asked to end
}

// start starts the script for an item, in a process group of its own.
func (a *activation) start(ctx context.Context) (*script, error) {
	last, err := a.takeLease(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(a.OnWork.Path)
	cmd.Env = a.environment(os.Environ(), last)
	cmd.Stdin = bytes.NewReader(a.item.JSON)
	if a.OnWork.Output != nil {
		cmd.Stdout, cmd.Stderr = a.OnWork.Output, a.OnWork.Output
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What a script leaves running may hold its standard input, unread.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a.log.Info("started the script", "pid", cmd.Process.Pid)
	s := &script{activation: a, pid: cmd.Process.Pid, exited: make(chan error, 1)}
	go func() {
		err := cmd.Wait()
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil
		}
		s.exited <- err
	}()
	return s, nil
}

// takeLease takes the lease ahead of the script's worker, if that is wanted.
func (a *activation) takeLease(ctx context.Context) (last string, err error) {
	if a.OnWork.Lease == 0 {
		return "", nil
	}
	beat, err := a.lease.beat(ctx, api.NoHeartbeat, a.OnWork.Lease, maxBeat)
	if err == nil && !beat.LeaseExtended {
		err = errStopped
	}
	if err != nil {
		return "", fmt.Errorf("take the lease: %w", err)
	}
	return beat.LastHeartbeat, nil
}

// attend waits for the script to exit. It is asked to end when the worker drains
// or its item is lost, and, with some time to finish by itself, when the session
// has been claimed anew; if it does not, it is killed. Its end is then that of
// all its process group, of which some may still be posting a result.
func (s *script) attend(ctx context.Context, superseded <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	lost := make(chan error, 1)
	go func() {
		if err := s.watch(ctx); errors.Is(err, errLost) {
			lost <- err
		}
	}()
	draining := s.draining
	var late, over <-chan time.Time
	for {
		ask := false
		select {
		case err := <-s.exited:
			if s.asked {
				s.awaitGroup(over)
			}
			return err
		case err := <-lost:
			s.log.Warn("the session's lease was taken back; ending its script", "error", err)
			ask = true
		case <-draining:
			draining, ask = nil, true
		case <-superseded:
			superseded, late = nil, time.After(s.Drain)
		case <-late:
			s.log.Warn("the session has been claimed anew; ending its earlier script")
			ask = true
		case <-over:
			s.signal(syscall.SIGKILL)
			return <-s.exited
		}
		// Many programs take a second signal for impatience.
		if ask && !s.asked {
			s.asked, over = true, time.After(s.Drain)
			s.signal(syscall.SIGTERM)
		}
	}
}

// signal signals the script and all it has started in its group.
func (s *script) signal(which syscall.Signal) {
	_ = syscall.Kill(-s.pid, which) // it may have just ended
}

// groupRetry is how long to wait for a process group between two looks.
const groupRetry = 50 * time.Millisecond

// awaitGroup waits for what is left of the group when the script itself has
// exited, and kills it when that takes too long.
func (s *script) awaitGroup(over <-chan time.Time) {
	for groupAlive(s.pid) {
		select {
		case <-over:
			s.signal(syscall.SIGKILL)
			return
		case <-time.After(groupRetry):
		}
	}
}

// groupAlive tells whether a process of a group still runs. Those that are dead
// and that nobody has waited for, which a signal would reach too, do not count.
func groupAlive(group int) bool {
	found, _ := filepath.Glob("/proc/[0-9]*/stat") // a constant pattern is well-formed
	for _, path := range found {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		// After the name in parentheses, which may hold anything, come the state,
		// the parent and the group.
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			return true
		}
	}
	return false
}

// watchOver stays with an item whose script has exited well. In most cases it is
// over; if not, a worker that the script left running somewhere holds it, or is
// about to.
func (a *activation) watchOver(ctx context.Context, superseded <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if over, err := a.look(ctx); over {
		return a.sayOver(err)
	}
	a.log.Info("the script has exited and its session goes on; watching")
	over := make(chan error, 1)
	go func() { over <- a.watch(ctx) }()
	select {
	case err := <-over:
		return a.sayOver(err)
	case <-superseded:
		a.log.Info("the session has been claimed anew; no longer watching its earlier claim")
	case <-a.draining:
		a.log.Info("leaving a session to the worker its script has begun")
	}
	return nil
}

func (a *activation) sayOver(err error) error {
	if err != nil {
		a.log.Warn("the session's lease was taken back, and is offered again if it still waits: the worker its script has begun did not take it, or is gone", "error", err)
		return err
	}
	a.log.Info("the script's worker is done with the session")
	return nil
}

// watch looks at an item now and then until it is over or ctx ends. The error is
// errLost when the server has taken the item back.
func (a *activation) watch(ctx context.Context) error {
	for {
		if over, err := a.look(ctx); over {
			return err
		}
		if err := sleep(ctx, min(max(a.lease.lasts()/4, minBeat), maxBeat)); err != nil {
			return err
		}
	}
}

// look looks once. That the server cannot be asked says nothing about the item.
func (a *activation) look(ctx context.Context) (over bool, err error) {
	state, err := a.lease.look(ctx)
	switch {
	case isRefusal(err):
		return true, errors.Join(errLost, err)
	case err != nil:
		return false, nil
	case state == api.WorkQueued:
		return true, errLost
	}
	return state == api.WorkStopped, nil
}

// environment is what a script gets: the worker's own environment, the item, and
// no credential but the item's.
func (a *activation) environment(own []string, lastHeartbeat string) []string {
	item := []string{
		"ANTHROPIC_BASE_URL=" + a.BaseURL,
		"ANTHROPIC_ENVIRONMENT_ID=" + a.item.EnvironmentID,
		"ANTHROPIC_SESSION_ID=" + a.item.SessionID,
		"ANTHROPIC_WORK_ID=" + a.item.WorkID,
		"ANTHROPIC_WORK_SECRET=" + a.item.Secret,
		"ANTHROPIC_WORK_LAST_HEARTBEAT=" + lastHeartbeat,
	}
	env := slices.DeleteFunc(slices.Clone(own), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return isCredential(name) || slices.Contains(workerOnly, name) ||
			slices.ContainsFunc(item, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	})
	return append(env, slices.DeleteFunc(item, func(v string) bool { return strings.HasSuffix(v, "=") })...)
}

// workerOnly are settings of this worker which its item's variables stand for.
var workerOnly = []string{"HEARTH_BASE_URL", "HEARTH_ENVIRONMENT_ID"}

// isCredential tells whether a variable of ours, or of the official clients,
// holds a credential or names a file with one.
func isCredential(name string) bool {
	if !strings.HasPrefix(name, "HEARTH_") && !strings.HasPrefix(name, "ANTHROPIC_") {
		return false
	}
	name = strings.TrimSuffix(name, "_FILE")
	return slices.ContainsFunc([]string{"_KEY", "_SECRET", "_TOKEN", "_HEADERS", "_DATABASE_URL"}, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// exitCode is that of a program, or -1 when it had none.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
