// Package loop is the agent loop: it claims threads of sessions that are due,
// asks the model what comes next, and logs what it says. It holds nothing between steps,
// so that any server can take the next one. It owns no data and may call
// session and model.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/session"
)

// Config of a Loop; zero fields take the defaults named.
type Config struct {
	Sessions *session.Store
	Adapter  model.Adapter
	// Skills tells of the skills that a session has; nil for a model that is
	// not told of any.
	Skills func(ctx context.Context, skills []api.Skill) ([]api.SkillVersion, error)
	// OpenFile opens a file that a message shows; nil where there are none.
	OpenFile func(ctx context.Context, workspaceID, id string) (api.File, io.ReadSeekCloser, error)
	Log      *slog.Logger // default slog.Default()
	// Concurrency is how many threads may think at once. Default 64.
	Concurrency int
	// MaxAttempts is how often a model request is tried before the turn is
	// given up. Default 6.
	MaxAttempts int
	// Backoff is the pause before the first retry; it doubles up to a minute.
	// Default 1 s.
	Backoff time.Duration
	// RenewEvery is how often a run's lease is renewed while the model thinks.
	// Default 10 s.
	RenewEvery time.Duration
}

// Loop runs sessions.
type Loop struct{ Config }

// New makes a loop.
func New(cfg Config) *Loop {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 64
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 6
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Second
	}
	if cfg.RenewEvery == 0 {
		cfg.RenewEvery = 10 * time.Second
	}
	return &Loop{cfg}
}

// retryClaim is the pause after the database has failed to answer.
const retryClaim = time.Second

// Run takes steps until ctx ends. Steps in flight then stop, and their
// sessions are left to whoever claims them next.
func (l *Loop) Run(ctx context.Context) error {
	wake, cancel := l.Sessions.Due()
	defer cancel()
	slots := make(chan struct{}, l.Concurrency)
	var steps sync.WaitGroup
	defer steps.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		run, wait, err := l.claim(ctx)
		if run != nil {
			steps.Go(func() {
				defer func() { <-slots }()
				l.step(ctx, run)
			})
			continue
		}
		<-slots
		if err != nil && ctx.Err() == nil {
			l.Log.Error("could not claim a session; trying again", "error", err, "next_try_in", retryClaim)
			wait = retryClaim
		}
		var timer <-chan time.Time
		if wait >= 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-timer:
		}
	}
}

// claim leases a thread, or says how long to wait for one; negative for
// until woken.
func (l *Loop) claim(ctx context.Context) (run *session.Run, wait time.Duration, err error) {
	next, err := l.Sessions.NextDue(ctx)
	if err != nil || next.IsZero() {
		return nil, -1, err
	}
	if wait := time.Until(next); wait > 0 {
		return nil, wait, nil
	}
	run, err = l.Sessions.Claim(ctx)
	return run, 0, err
}

// step does for a thread what is next to be done.
func (l *Loop) step(ctx context.Context, run *session.Run) {
	log := l.Log.With("session", run.SessionID)
	if run.ThreadID != "" {
		log = log.With("thread", run.ThreadID)
	}
	err := l.guard(ctx, run)
	switch {
	case err == nil:
	case errors.Is(err, session.ErrStale):
		log.Info("another run of the thread has begun; this one ends")
	case ctx.Err() != nil:
		// Shutting down: the next to claim the session begins at once.
		if err := run.Release(context.WithoutCancel(ctx), time.Now()); err != nil && !errors.Is(err, session.ErrStale) {
			log.Warn("could not hand back a session; its lease will lapse", "error", err)
		}
	default:
		log.Error("a step failed", "error", err)
		l.poisoned(ctx, run, err)
	}
}

// guard turns a panic into an error.
func (l *Loop) guard(ctx context.Context, run *session.Run) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return l.think(ctx, run)
}

// poisoned ends the turn of a session that a step cannot handle, so that it is
// seen and does not spin.
func (l *Loop) poisoned(ctx context.Context, run *session.Run, cause error) {
	err := run.FailRequest(ctx, api.SessionError{
		Type:        api.SessionErrorUnknown,
		Message:     "The server could not take the next step; its log has the cause.",
		RetryStatus: api.RetryStatus{Type: api.RetryExhausted},
	}, api.ModelUsage{}, time.Time{})
	if err != nil && !errors.Is(err, session.ErrStale) {
		l.Log.Error("a session could be neither run nor stopped; its lease will lapse and it will be tried again", "session", run.SessionID, "error", errors.Join(cause, err))
	}
}

var errInterrupted = errors.New("interrupted by the user")

// think makes one model request for a thread, if one is to be made.
func (l *Loop) think(ctx context.Context, run *session.Run) error {
	// Watching comes first: an interrupt after the snapshot is then noticed.
	happened, cancelWatch := run.Watch()
	defer cancelWatch()
	snap, err := run.Snapshot(ctx)
	if err != nil {
		return err
	}
	switch {
	case snap.Thread.Status == api.SessionTerminated, len(snap.Open) > 0 && !snap.Halted:
		return run.Release(ctx, time.Time{})
	case snap.Halted:
		return run.ApplyInterrupt(ctx, nil, api.ModelUsage{})
	case snap.Thread.Status == api.SessionIdle && len(snap.Inbox)+snap.Undelivered == 0:
		return run.Release(ctx, time.Time{})
	}
	tools, err := toolsOf(snap.Agent)
	if err != nil {
		return err
	}
	system, err := l.systemPrompt(ctx, snap)
	if err != nil {
		return err
	}
	_, taken, err := run.BeginRequest(ctx)
	if errors.Is(err, session.ErrBudgetReached) {
		l.Log.Info("a session's budget is reached", "session", run.SessionID)
		return nil
	}
	if err != nil {
		return err
	}
	log, err := l.withFiles(ctx, snap.WorkspaceID, append(snap.Log, taken...))
	if err != nil {
		return err
	}
	request := model.Request{Model: snap.Agent.Model, System: system, Messages: conversation(log), Tools: tools.offered}
	preview := newPreviews(ctx, l.Sessions, run.LogID())
	reply, err := l.ask(ctx, run, happened, request, preview)
	switch {
	case errors.Is(err, errInterrupted):
		return run.ApplyInterrupt(ctx, partial(reply, preview), reply.Usage)
	case ctx.Err() != nil, errors.Is(err, session.ErrStale):
		return errors.Join(err, ctx.Err())
	case err != nil:
		return l.fail(ctx, run, snap.Failures, reply.Usage, err)
	}
	return run.CompleteRequest(ctx, completion(reply, preview, tools))
}

// ask makes the request, keeps the run's lease meanwhile, and breaks off when
// the user interrupts or the lease is lost.
func (l *Loop) ask(ctx context.Context, run *session.Run, happened <-chan string, request model.Request, preview *previews) (model.Reply, error) {
	asking, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(asking, cancel, run, happened) })
	reply, err := l.Adapter.Stream(asking, request, preview.on)
	cause := context.Cause(asking)
	cancel(nil)
	watching.Wait()
	if err != nil && cause != nil {
		return reply, cause
	}
	return reply, err
}

// watch cancels a model request when the user interrupts it or the run is lost.
func (l *Loop) watch(ctx context.Context, cancel context.CancelCauseFunc, run *session.Run, happened <-chan string) {
	renew := time.NewTicker(l.RenewEvery)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case notice := <-happened:
			if strings.HasPrefix(notice, "{") {
				continue // a preview, most likely our own
			}
			if yes, err := run.Interrupted(ctx); err == nil && yes {
				cancel(errInterrupted)
				return
			}
		case <-renew.C:
			if err := run.Renew(ctx); errors.Is(err, session.ErrStale) {
				cancel(err)
				return
			}
		}
	}
}

// fail reports a failed model request and says when it is tried again, if it is.
func (l *Loop) fail(ctx context.Context, run *session.Run, failures int, usage api.ModelUsage, err error) error {
	var failed *model.Error
	if !errors.As(err, &failed) {
		return err
	}
	report := api.SessionError{Type: failed.Type, Message: failed.Error(), RetryStatus: api.RetryStatus{Type: api.RetryExhausted}}
	var at time.Time
	if failed.Retryable && failures+1 < l.MaxAttempts {
		wait := max(l.pause(failures), failed.RetryAfter)
		at = time.Now().Add(wait)
		report.RetryStatus.Type = api.RetryRetrying
		l.Log.Warn("a model request failed", "session", run.SessionID, "error", failed, "attempt", failures+1, "next_try_in", wait.Round(time.Millisecond))
	} else {
		l.Log.Error("a turn failed", "session", run.SessionID, "error", failed, "attempt", failures+1)
	}
	return run.FailRequest(ctx, report, usage, at)
}

// maxPause bounds the pause between two tries.
const maxPause = time.Minute

// pause doubles with each failure; its jitter spreads sessions that failed together.
func (l *Loop) pause(failures int) time.Duration {
	full := min(l.Backoff<<min(failures, 10), maxPause)
	return full/2 + rand.N(full/2+1)
}
