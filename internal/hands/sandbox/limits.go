package sandbox

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Limits are the resource bounds of one sandbox; zero fields are unlimited.
type Limits struct {
	MemoryBytes int64
	// CPUs is how many processors' time may be used, for example 0.5.
	CPUs      float64
	Processes int
	OpenFiles int // of one process
	// DiskBytes bounds the working directory and the scratch files together.
	// They are measured now and then, so it may be exceeded for a moment.
	DiskBytes int64
}

// Bounds hold a sandbox to its limits from outside.
type Bounds interface {
	// Add puts a process, and all that it will start, within the bounds.
	Add(pid int) error
	// Hits tells how often limits have been run into.
	Hits() Hits
	// Freeze stops every process where it is, or lets all go on.
	Freeze(frozen bool) error
}

// Hits counts how often a sandbox has run into its limits.
type Hits struct{ Memory, Processes int64 }

// LimitError tells which limit ended a call, or a sandbox.
type LimitError struct{ Limit string }

func (e *LimitError) Error() string { return "the sandbox reached its limit of " + e.Limit }

// since says what limits have been hit since before, in a sentence for the
// agent; "" for none.
func (l Limits) since(before, now Hits) string {
	switch {
	case now.Memory > before.Memory:
		return size(l.MemoryBytes) + " of memory; a process was ended for it"
	case now.Processes > before.Processes:
		return fmt.Sprintf("%d processes; more could not be started", l.Processes)
	}
	return ""
}

// size prints bytes as people do.
func size(bytes int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.bytes {
			return fmt.Sprintf("%.4g %s", float64(bytes)/float64(unit.bytes), unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// disk watches what a sandbox's files take.
type disk struct {
	limit int64
	dirs  []string
	kill  func() // ends the sandbox

	mu      sync.Mutex
	calls   map[*context.CancelCauseFunc]int64 // in flight, and what there was when each began, or unknown; guarded by mu
	last    int64                              // as last measured; guarded by mu
	settled bool                               // no call has ended since; guarded by mu
	crossed bool                               // it ended the sandbox; guarded by mu
}

// unknown is what there was when a call began while there was too much already.
const unknown = -1

// How often files are measured: often while a call runs, and rarely enough for
// measuring to take a small part of the time.
const (
	measureBusy = 200 * time.Millisecond
	measureIdle = 3 * time.Second
	shareBusy   = 10
	shareIdle   = 100
)

// watch measures until done.
func (d *disk) watch(done <-chan struct{}) {
	pause := measureBusy
	for {
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
		began := time.Now()
		used := usage(d.dirs)
		took := time.Since(began)
		if d.judge(used) {
			pause = max(measureBusy, shareBusy*took)
		} else {
			pause = max(measureIdle, shareIdle*took)
		}
	}
}

// judge ends what has made the files grow beyond the limit: the calls that run,
// or else, for it must be something in the background, the sandbox. What is
// beyond the limit and does not grow is left alone, so that it can be removed;
// and so is what a call that has ended may have written last.
func (d *disk) judge(used int64) (busy bool) {
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
	d.last, d.settled = used, true
	return len(d.calls) > 0
}

func (d *disk) exceeded() error {
	return &LimitError{size(d.limit) + " of files; remove what is not needed"}
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

// usage is what the files below dirs take on disk. What cannot be read, or goes
// while it is counted, counts as nothing.
func usage(dirs []string) (bytes int64) {
	type inode struct{ dev, ino uint64 }
	linked := map[inode]bool{}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			info, err := entry.Info()
			if err != nil {
				return nil
			}
			stat, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return nil
			}
			if stat.Nlink > 1 && !info.IsDir() {
				if linked[inode{stat.Dev, stat.Ino}] {
					return nil
				}
				linked[inode{stat.Dev, stat.Ino}] = true
			}
			bytes += stat.Blocks * 512
			return nil
		})
	}
	return bytes
}
