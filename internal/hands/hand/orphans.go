package hand

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// orphans reaps the processes that were left to this one. The children it has started itself are left to os/exec,
// which would otherwise never learn how they ended.
type orphans struct {
	mu  sync.Mutex
	own map[int]bool // pids of children that os/exec waits for; guarded by mu
}

func newOrphans(ctx context.Context) *orphans {
	o := &orphans{own: map[int]bool{}}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		defer signal.Stop(died)
		for {
			select {
			case <-ctx.Done():
				return
			case <-died:
			// A child that os/exec was slow to wait for hides those behind it.
			case <-time.After(time.Second):
			}
			o.reap()
		}
	}()
	return o
}

// start starts, by way of how, a child that os/exec will wait for.
func (o *orphans) start(how func(*exec.Cmd) error, cmd *exec.Cmd) error {
	if o == nil {
		return how(cmd)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	err := how(cmd)
	if err == nil {
		o.own[cmd.Process.Pid] = true
	}
	return err
}

func (o *orphans) forget(pid int) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.own, pid)
}

// reap reaps every orphan that has ended, up to the first child of our own.
func (o *orphans) reap() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		pid := ended()
		if pid == 0 || o.own[pid] {
			return
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err != nil {
			return
		}
	}
}
