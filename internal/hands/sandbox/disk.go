package sandbox

import (
	"context"
	"os"
	"sync"
	"time"
)

// disk watches what a sandbox's files take.
type disk struct {
	limit int64
	dirs  []*os.File
	pid   int           // of the sandbox's first process
	kill  func()        // ends the sandbox
	over  chan struct{} // a call begins although there is too much already

	mu      sync.Mutex
	calls   map[*context.CancelCauseFunc]int64 // in flight, and what there was when each began, or unknown; guarded by mu
	last    int64                              // as last measured; guarded by mu
	settled bool                               // no call has ended since; guarded by mu
	crossed bool                               // it ended the sandbox; guarded by mu
}

// unknown is what there was when a call began while there was too much already.
const unknown = -1

// How often files are measured: often while a call runs or they grow, else
// rarely, and most often when a call runs although there is too much already, or
// each could write for a while; and only as often as measuring takes a small part of
// the time, unless what is written would go unseen for too long.
const (
	measureOver = 20 * time.Millisecond
	measureBusy = 200 * time.Millisecond
	measureIdle = 3 * time.Second
	longest     = 10 * time.Second // while calls run or files grow
	unseen      = time.Minute      // else
	shareOver   = 2
	shareBusy   = 10
	shareIdle   = 100
)

// watch measures until done.
func (d *disk) watch(done <-chan struct{}) {
	defer closeDirs(d.dirs)
	pause := measureBusy
	uncounted := int64(0)
	for {
		select {
		case <-done:
			return
		case <-d.over:
		case <-time.After(pause):
		}
		began := time.Now()
		used, whole := usage(d.dirs, d.pid)
		took := time.Since(began)
		if !whole { // as much as is allowed, and more each time
			uncounted++
			used = max(used, d.limit) + uncounted
		}
		switch running, busy := d.judge(used); {
		case running && used > d.limit:
			pause = min(max(measureOver, shareOver*took), longest)
		case busy:
			pause = min(max(measureBusy, shareBusy*took), longest)
		default:
			pause = min(max(measureIdle, shareIdle*took), unseen)
		}
	}
}

// judge ends what has made the files grow beyond the limit: the calls that run,
// or else, for it must be something in the background, the sandbox. What is
// beyond the limit and does not grow is left alone, so that it can be removed;
// and so is what a call that has ended may have written last. It tells whether
// calls run, and whether they do or the files grow.
func (d *disk) judge(used int64) (running, busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for cancel, before := range d.calls {
		switch {
		case used <= d.limit:
		case before == unknown:
			d.calls[cancel] = used
		case used > before:
			(*cancel)(d.exceeded())
		}
	}
	if len(d.calls) == 0 && d.settled && used > d.limit && used > d.last && !d.crossed {
		d.crossed = true
		d.kill()
	}
	grown := used > d.last
	d.last, d.settled = used, true
	return len(d.calls) > 0, grown || len(d.calls) > 0
}

func (d *disk) exceeded() error {
	return Limits{DiskBytes: d.limit}.files()
}

// full measures whether there is hardly any room left.
func (d *disk) full() bool {
	used, _ := usage(d.dirs, d.pid)
	return used > d.limit/10*9
}

// ended tells whether the sandbox was ended for its files.
func (d *disk) ended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crossed
}

// during counts a call as in flight until release.
func (d *disk) during(ctx context.Context) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.last
	if before > d.limit {
		before = unknown
		select {
		case d.over <- struct{}{}:
		default:
		}
	}
	d.calls[&cancel] = before
	return ctx, func() {
		cancel(nil)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.calls, &cancel)
		d.settled = false
	}
}
