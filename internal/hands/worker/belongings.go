package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"hearth/api"
	"hearth/internal/hands/mount"
	"hearth/internal/hands/sandbox"
)

// belongings are what a session finds in its sandbox beside its own files: skills
// and mounted resources; and what it leaves there for others.
type belongings struct {
	*activation
	ctx     context.Context // of the activation: an upload outlives the turn it is for
	box     *box
	session api.Session // as it was when it was claimed
	work    sync.WaitGroup

	mu      sync.Mutex
	mounter *mount.Mounter  // nil before the sandbox is there; guarded by mu
	said    []string        // for the model, with the next result; guarded by mu
	told    map[string]bool // failures that have been reported; guarded by mu
	busy    bool            // outputs are being collected; guarded by mu
	more    bool            // and are to be once more; guarded by mu
	synced  time.Time       // when the memories last were, or began to be; guarded by mu
}

// arrange puts the belongings in their places; the channel is closed when they
// are. What cannot be had the model is told of, for the session may do without.
//
// At the beginning of a turn the memories are reconciled, too.
func (b *belongings) arrange(ctx context.Context, turn bool) chan struct{} {
	done := make(chan struct{})
	b.work.Go(func() {
		defer close(done)
		// The directories may be another's until the sandbox is there. That there is
		// none, the first call will say.
		s, err := b.box.get(ctx)
		if err != nil {
			return
		}
		mounter, resources, err := b.prepare(ctx, s)
		if err != nil {
			if ctx.Err() == nil {
				b.log.Warn("could not look for what is mounted for a session", "error", err)
			}
			return
		}
		b.tellAll(ctx)(mounter.Sync(ctx, resources))
		if turn {
			b.syncMemories(ctx, mount.MemoryDuring)
		}
	})
	return done
}

// prepare returns the mounter and the resources there are by now; the first time
// it also downloads the skills.
func (b *belongings) prepare(ctx context.Context, s sandbox.Sandbox) (*mount.Mounter, []json.RawMessage, error) {
	b.mu.Lock()
	m := b.mounter
	b.mu.Unlock()
	if m != nil {
		var session api.Session
		err := b.wire.try(ctx, "GET", sessionPath(b.item.SessionID), nil, nil, &session)
		return m, session.Resources, err
	}
	b.downloadSkills(ctx, b.session.Agent.Skills)
	mnt := b.place.mnt
	if s.Workdir() != sandbox.GuestWorkdir {
		mnt = "" // a sandbox on the host's own file system
	}
	m, err := mount.New(mount.Config{
		Server: mountServer{b.wire}, SessionID: b.item.SessionID, Dir: b.place.dir, Work: b.place.work, Mnt: mnt, HasToken: b.wire.itemsOwn,
		Disk: b.box.limits().DiskBytes, Log: b.log,
	})
	if err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mounter, b.synced = m, time.Now()
	return m, b.session.Resources, nil
}

// tellAll puts failures on record, and lets the model know of them and of notes.
func (b *belongings) tellAll(ctx context.Context) func(failures []mount.Failure, notes []string) {
	return func(failures []mount.Failure, notes []string) {
		b.mu.Lock()
		b.said = append(b.said, notes...)
		b.mu.Unlock()
		for _, f := range failures {
			if ctx.Err() == nil {
				b.tell(ctx, f)
			}
		}
	}
}

// tell puts a failure on record, once, and lets the model know. Where things are on
// the worker's host is neither the server's nor the model's to know.
func (b *belongings) tell(ctx context.Context, f mount.Failure) {
	what := fmt.Sprint(f.Path, f.Lapsed) // whatever the words of the answer are this time
	message := strings.NewReplacer(b.place.work, sandbox.GuestWorkdir, b.place.mnt, sandbox.GuestMnt, b.place.dir, "(the worker's)").Replace(f.Error())
	b.mu.Lock()
	before := b.told[what]
	b.told[what] = true
	if !before {
		b.said = append(b.said, message)
	}
	b.mu.Unlock()
	if before {
		return
	}
	b.log.Warn("could not mount a resource", "resource", f.ResourceID, "path", f.Path, "error", f.Err)
	b.report(ctx, message)
}

// maxReport is how long a report may be, in bytes.
const maxReport = 2000

// report tells the server, if it listens.
func (b *belongings) report(ctx context.Context, message string) {
	if !b.wire.ours.Load() {
		return // there is nobody to tell
	}
	if len(message) > maxReport {
		message = strings.ToValidUTF8(message[:maxReport], "")
	}
	err := b.wire.try(ctx, "POST", sessionPath(b.item.SessionID)+"/reports", nil, map[string]string{"message": message}, nil)
	if err != nil && ctx.Err() == nil {
		b.log.Warn("could not report what went wrong to the server", "error", err)
	}
}

// notes is what the model must know before it reads the next result.
func (b *belongings) notes() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	for _, note := range b.said {
		text.WriteString("[" + note + "]\n")
	}
	b.said = nil
	return text.String()
}

// collectSoon has the outputs uploaded, without waiting for it; at the end of a
// turn what has been remembered, too.
func (b *belongings) collectSoon(turn bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if turn {
		b.synced = time.Time{}
	}
	if b.more = b.busy; b.more {
		return
	}
	b.busy = true
	b.work.Go(func() {
		for again := true; again; {
			b.collect(b.ctx)
			if b.memoriesDue() {
				b.syncMemories(b.ctx, mount.MemoryDuring)
			}
			b.mu.Lock()
			again, b.more = b.more && b.ctx.Err() == nil, false
			b.busy = again
			b.mu.Unlock()
		}
	})
}

// collect uploads the outputs.
func (b *belongings) collect(ctx context.Context) {
	b.mu.Lock()
	m := b.mounter
	b.mu.Unlock()
	if m == nil {
		return
	}
	if err := m.Collect(ctx); err != nil && ctx.Err() == nil {
		b.log.Warn("could not upload the outputs of a session", "error", err)
		b.report(ctx, "Outputs could not be stored: "+err.Error())
	}
}

const (
	// memoryInterval is how often memories are reconciled while calls run; beside
	// that they are at the beginning and the end of each turn.
	memoryInterval = 15 * time.Second
	// memoryEnd bounds the last reconciliation.
	memoryEnd = 30 * time.Second
)

// syncMemoriesIfDue reconciles the memories after a call, without waiting for it.
func (b *belongings) syncMemoriesIfDue() {
	if b.memoriesDue() {
		b.work.Go(func() { b.syncMemories(b.ctx, mount.MemoryDuring) })
	}
}

func (b *belongings) memoriesDue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.synced) >= memoryInterval
}

func (b *belongings) syncMemories(ctx context.Context, how mount.MemorySync) {
	b.mu.Lock()
	m := b.mounter
	b.synced = time.Now()
	b.mu.Unlock()
	if m != nil {
		b.tellAll(ctx)(m.SyncMemories(ctx, how))
	}
}

// keepMemories brings what the session leaves in its memories to the server: all
// of it if the session is left well, and as much as can be saved if not.
func (b *belongings) keepMemories(ctx context.Context, well bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), memoryEnd)
	defer cancel()
	how := mount.MemoryFinal
	if !well {
		how = mount.MemoryRescue
	}
	b.syncMemories(ctx, how)
}

// wait waits for what has been begun, which the end of its context ends.
func (b *belongings) wait() { b.work.Wait() }

// mountServer is the wire as a mounter sees it.
type mountServer struct{ *wire }

func (s mountServer) Do(ctx context.Context, method, path string, in, out any) error {
	return s.try(ctx, method, path, nil, in, out)
}

func (s mountServer) Download(ctx context.Context, path string) (io.ReadCloser, int64, error) {
	response, err := s.open(ctx, "GET", path, nil, nil)
	if err != nil {
		return nil, 0, err
	}
	return response.Body, response.ContentLength, nil
}

func (s mountServer) Upload(ctx context.Context, path, contentType string, form io.Reader, size int64, out any) error {
	response, err := s.upload(ctx, path, contentType, form, size)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(out)
}
