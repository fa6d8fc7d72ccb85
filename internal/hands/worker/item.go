package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hearth/api"
	"hearth/internal/hands/sandbox"
)

// activation is one item being served.
type activation struct {
	*Worker
	item   Item
	wire   *wire // with the item's own credential
	lease  *lease
	log    *slog.Logger
	place  place
	skills []string // where the skills are, in the working directory
	box    *box     // nil before there is one; guarded by Worker.mu

	spare time.Time     // from when it may make room for others; zero for never; guarded by Worker.mu
	asked chan struct{} // has room for one: it is to make room, if it still may

	cancel context.CancelCauseFunc // ends it early
	ended  chan struct{}           // closed when nothing of it is left
}

// serve serves an item from claim to stop. What goes wrong is logged; the
// error is for who serves one item only.
func (w *Worker) serve(ctx context.Context, item Item) error {
	log := w.Log.With("work", item.WorkID, "session", item.SessionID)
	wire := w.wire.with(w.token(item))
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &activation{Worker: w, item: item, wire: wire, lease: newLease(item, wire), log: log, cancel: cancel, ended: make(chan struct{}), asked: make(chan struct{}, 1)}
	earlier := w.enter(a)
	defer w.leave(a)
	// The lease is kept through the teardown, and ends last.
	beating, endLease := context.WithCancel(context.WithoutCancel(ctx))
	defer endLease()
	kept := make(chan error, 1)
	go func() {
		err := a.lease.keep(beating)
		if err != nil {
			cancel(err)
		}
		kept <- err
	}()

	began := time.Now()
	err := a.run(running, earlier)
	if cause := context.Cause(running); cause != nil && ctx.Err() == nil {
		err = cause
	}
	endLease()
	if leaseErr := <-kept; leaseErr != nil {
		err = leaseErr
	}
	if a.lease.lapsed() {
		err = errors.Join(errLost, err) // clearing up took longer than it lasted
	}
	if errors.Is(err, errLost) {
		log.Warn("lost the lease of a session; leaving it to whoever has it", "error", err)
		return err
	}
	if stopErr := a.lease.stop(context.WithoutCancel(ctx)); stopErr != nil {
		log.Warn("could not say that a session has been left; its lease will lapse", "error", stopErr)
	}
	if err != nil && !errors.Is(err, errStopped) {
		log.Error("left a session", "error", err, "after", time.Since(began).Round(time.Millisecond))
		return err
	}
	log.Info("left a session", "after", time.Since(began).Round(time.Millisecond))
	return nil
}

// errSuperseded is how an activation ends whose session this worker has claimed
// again: its lease lapsed or was taken, and it has yet to notice.
var errSuperseded = fmt.Errorf("%w: the session has been claimed anew", errLost)

// enter adds an activation to those that are served, and ends earlier ones of
// the same session, which it returns.
func (w *Worker) enter(a *activation) (earlier []*activation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.serving {
		if other.item.SessionID == a.item.SessionID {
			other.cancel(errSuperseded)
			earlier = append(earlier, other)
		}
	}
	w.serving[a] = true
	return earlier
}

func (w *Worker) leave(a *activation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.serving, a)
	close(a.ended)
}

// run does an item's work, once earlier activations of the session are over.
// Nothing of it is left when it returns.
func (a *activation) run(ctx context.Context, earlier []*activation) (err error) {
	if a.item.Kind != "session" {
		return nil // a health check: to be claimed and stopped is all it asks for
	}
	for _, other := range earlier {
		select {
		case <-other.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if a.place, err = a.open(ctx, a.item.SessionID); err != nil {
		return err
	}
	defer a.place.close()
	if err := a.arrive(ctx); err != nil {
		// What is here may be older, or nothing, and would replace what is in the store.
		return fmt.Errorf("fetch what other workers have stored of the session: %w", err)
	}
	goesOn := false // the session does, for all that is known
	box, session, err := a.prepare(ctx)
	if box != nil {
		a.mu.Lock()
		a.box = box
		a.mu.Unlock()
		defer func() {
			if e := box.close(context.WithoutCancel(ctx)); e != nil {
				err = errors.Join(err, fmt.Errorf("destroy the sandbox: %w", e))
			}
			if goesOn {
				a.handOn(ctx)
			}
		}()
	}
	if err != nil {
		return fmt.Errorf("read the session: %w", err)
	}
	if session.Status == api.SessionTerminated {
		return nil
	}
	r := newRunner(a, box, &belongings{activation: a, ctx: ctx, box: box, session: session, told: map[string]bool{}})
	err = r.run(ctx)
	goesOn = !r.over
	if err == nil && !r.over {
		r.belongings.collect(ctx)
	}
	r.belongings.keepMemories(ctx, err == nil)
	if a.Workdir != "" && !errors.Is(context.Cause(ctx), errLost) { // or who has it now may need them
		a.removeSkills(context.WithoutCancel(ctx))
	}
	if err != nil || r.over || a.parker == nil {
		return err
	}
	if err := box.park(context.WithoutCancel(ctx)); err != nil {
		a.log.Warn("could not park a session's sandbox", "error", err)
	}
	return nil
}

// prepare reads the session and has its sandbox started; at once, while the model
// is still thinking, unless the limits depend on whose session it is.
func (a *activation) prepare(ctx context.Context) (b *box, session api.Session, err error) {
	if len(a.AgentLimits) == 0 {
		b = newBox(ctx, a, a.spec(a.Limits))
	}
	if err := a.wire.try(ctx, "GET", sessionPath(a.item.SessionID), nil, nil, &session); err != nil {
		return b, session, err
	}
	if b == nil {
		limits, ok := a.AgentLimits[session.Agent.ID]
		if !ok {
			limits = a.Limits
		}
		b = newBox(ctx, a, a.spec(limits))
	}
	return b, session, nil
}

func (a *activation) spec(limits sandbox.Limits) sandbox.Spec {
	return sandbox.Spec{
		ID: newID(), Workdir: a.place.work, Mnt: a.place.mnt, Root: a.Root, Env: a.Env, Limits: limits, Labels: a.labels(),
	}
}

func (a *activation) labels() map[string]string {
	return map[string]string{"session": a.item.SessionID, "work": a.item.WorkID}
}
