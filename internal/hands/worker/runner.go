package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"hearth/api"
	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// runner runs the tool calls of one session. Its fields belong to the goroutine
// of run; calls report to it over finished.
type runner struct {
	*activation
	box        *box
	belongings *belongings
	finished   chan finished

	seen      map[string]bool  // ids of events handled
	calls     map[string]*call // calls not yet done with, by id
	order     []string         // their ids, oldest first
	settled   map[string]bool  // calls answered or void, whose use may still be seen later
	verdicts  map[string]bool  // confirmations: whether the call may run
	voidUntil time.Time        // calls made up to then were interrupted
	caughtUp  bool             // the history has been read at least once
	idle      bool             // the last thing that happened was the end of a turn
	idleSince time.Time
	waits     time.Time // since when it waits for others than us in a turn; zero if it does not
	turnEnded bool      // and no other has begun
	over      bool      // the session needs no hands any more

	arranged chan struct{} // closed once the belongings are in their places; nil afterwards
	again    bool          // they may have changed since that was begun
	turn     bool          // and a turn has begun since
}

// call is a tool call the worker is to answer.
type call struct {
	event   api.Event
	held    bool // waits for a confirmation
	running bool
	cancel  context.CancelFunc // while running
	result  *hand.Result       // once it has run; kept until it has been posted
}

// finished is how a call's goroutine ended.
type finished struct {
	id     string
	result *hand.Result // nil when it did not run to its end
	posted bool         // accepted, or refused for good
	err    error        // the sandbox, or the server, cannot be used
}

func newRunner(a *activation, b *box, have *belongings) *runner {
	return &runner{
		activation: a, box: b, belongings: have, finished: make(chan finished),
		seen: map[string]bool{}, calls: map[string]*call{}, settled: map[string]bool{}, verdicts: map[string]bool{},
	}
}

// handsTools are the tools this worker runs. Others are somebody else's to answer.
var handsTools = map[string]bool{
	api.ToolBash: true, api.ToolRead: true, api.ToolWrite: true, api.ToolEdit: true, api.ToolGlob: true, api.ToolGrep: true,
}

// errOver says that the session needs no hands any more.
var errOver = errors.New("the session is over")

// run runs calls until the session has been idle for long enough, is over, or
// ctx ends; when the worker drains, until those that run have finished.
func (r *runner) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	sightings := make(chan sighting, 64)
	followed := make(chan error, 1)
	go func() { followed <- r.follow(ctx, sightings) }()
	r.arrange(ctx, false)
	defer func() {
		cancel()
		r.abandon()
		r.belongings.wait()
	}()
	draining := r.draining
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		if draining == nil && r.inFlight() == 0 {
			return nil
		}
		r.spareFrom(r.spareNow())
		if r.idle && len(r.calls) == 0 && !r.box.attended() {
			idle.Reset(max(0, r.MaxIdle-time.Since(r.idleSince)))
		} else {
			idle.Stop()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-draining:
			draining = nil // no more calls are begun
		case err := <-followed:
			return err
		case s := <-sightings:
			if err := r.see(ctx, s); err != nil {
				if errors.Is(err, errOver) {
					r.over = true
					return nil
				}
				return err
			}
		case f := <-r.finished:
			if err := r.done(f); err != nil {
				return err
			}
		case <-r.arranged:
			if r.arranged = nil; r.again {
				r.arrange(ctx, r.turn)
			}
		case <-r.box.left:
			r.idleSince = time.Now()
		case <-r.asked:
			if from := r.spareNow(); !from.IsZero() && !time.Now().Before(from) {
				r.log.Info("leaving a session that needs nothing, to make room for others")
				return nil
			}
		case <-idle.C:
			if r.box.attended() {
				continue // somebody has just come
			}
			return nil
		}
		if r.caughtUp && r.arranged == nil && draining != nil {
			r.begin(ctx)
		}
	}
}

// spareNow is from when the session may be left before its time, if others wait for
// its place: at once when its turn has ended, and after MaxIdle when it waits for a
// permission, or for an answer of the application, for which it might wait for ever.
// Only Hearth offers a session again that was left in a turn.
func (r *runner) spareNow() time.Time {
	for _, c := range r.calls {
		if !c.held {
			return time.Time{}
		}
	}
	switch {
	case !r.caughtUp, r.arranged != nil, r.box.attended():
	case r.idle && len(r.calls) == 0:
		return r.idleSince
	case !r.waits.IsZero() && r.wire.ours.Load():
		return r.waits.Add(r.MaxIdle)
	}
	return time.Time{}
}

// arrange has the session's belongings put in their places. No call begins
// before they are there.
func (r *runner) arrange(ctx context.Context, turn bool) {
	r.again, r.turn = r.arranged != nil, turn || r.turn
	if !r.again {
		r.arranged, r.turn = r.belongings.arrange(ctx, r.turn), false
	}
}

func (r *runner) inFlight() int {
	n := 0
	for _, c := range r.calls {
		if c.running {
			n++
		}
	}
	return n
}

// abandon stops what runs and waits for it, so that nothing is posted later.
func (r *runner) abandon() {
	for _, c := range r.calls {
		if c.running {
			c.cancel()
		}
	}
	for n := r.inFlight(); n > 0; n-- {
		f := <-r.finished
		r.calls[f.id].running = false
	}
}

// see takes in what following has brought.
func (r *runner) see(ctx context.Context, s sighting) error {
	if s.caughtUp {
		r.caughtUp = true
		return nil
	}
	e := s.event
	if e.ID == "" || e.ProcessedAt == nil && e.Type != api.EventAgentToolUse || r.seen[e.ID] {
		return nil // a preview, an event still queued, or one seen before
	}
	r.seen[e.ID] = true
	r.countdown(e)
	switch e.Type {
	case api.EventAgentToolUse:
		r.route(e)
	case api.EventUserToolConfirmation:
		r.confirm(e)
	case api.EventUserToolResult, api.EventAgentToolResult:
		// Hearth lists the answers of its own workers in cloud environments as
		// agent.tool_result; elsewhere that is how a denial is answered.
		r.settle(e.ToolUseID)
	case api.EventUserInterrupt:
		if e.SessionThreadID == nil {
			r.interrupt(*e.ProcessedAt)
		}
	case api.EventSessionStatusRunning:
		if r.caughtUp && r.wire.ours.Load() {
			// What is mounted may have changed between turns; elsewhere nothing is.
			r.arrange(ctx, r.turnEnded)
			r.turnEnded = false
		}
	case api.EventSessionStatusIdle:
		if r.caughtUp {
			r.turnEnded = r.turnEnded || r.idle
			r.belongings.collectSoon(r.idle)
		}
	case api.EventSessionStatusTerminated, api.EventSessionDeleted:
		return errOver
	}
	return nil
}

// countdown begins at the end of a turn; whatever else happens ends it, but for
// what changes nothing about whose turn it is.
func (r *runner) countdown(e api.Event) {
	switch {
	case e.Type == api.EventUserToolConfirmation, e.Type == api.EventUserInterrupt:
	case e.Type == api.EventSessionStatusIdle && (e.StopReason == nil || e.StopReason.Type != api.StopRequiresAction):
		r.idle, r.idleSince, r.waits = true, time.Now(), time.Time{}
	case e.Type == api.EventSessionStatusIdle:
		r.idle, r.waits = false, time.Now()
	default:
		r.idle, r.waits = false, time.Time{}
	}
}

// route decides what becomes of a call: it runs, waits, or is not for us.
func (r *runner) route(e api.Event) {
	if !handsTools[e.Name] || r.settled[e.ID] || r.void(e) {
		return
	}
	allowed, judged := r.verdicts[e.ID]
	switch {
	case e.EvaluatedPermission == api.PermissionDeny, judged && !allowed:
		return // the server answers it
	case e.EvaluatedPermission == "", e.EvaluatedPermission == api.PermissionAllow:
		allowed = true
	}
	r.calls[e.ID] = &call{event: e, held: !allowed}
	r.order = append(r.order, e.ID)
}

func (r *runner) confirm(e api.Event) {
	allowed := e.Result == "allow"
	r.verdicts[e.ToolUseID] = allowed
	c, ok := r.calls[e.ToolUseID]
	switch {
	case ok && allowed:
		c.held = false
	case ok:
		r.settle(e.ToolUseID)
	}
}

// settle drops a call that needs no answer any more. One that runs is stopped.
func (r *runner) settle(id string) {
	r.settled[id] = true
	c, ok := r.calls[id]
	if !ok {
		return
	}
	if c.running {
		c.cancel() // done drops it
		return
	}
	r.drop(id)
}

func (r *runner) drop(id string) {
	delete(r.calls, id)
	r.place.finish(id)
	for i, other := range r.order {
		if other == id {
			r.order = append(r.order[:i], r.order[i+1:]...)
			return
		}
	}
}

// interrupt voids every call made up to then, those not seen yet too: a
// history may list an interrupt before the calls it voids.
func (r *runner) interrupt(at time.Time) {
	if at.After(r.voidUntil) {
		r.voidUntil = at
	}
	for id, c := range r.calls {
		if r.void(c.event) {
			r.settle(id)
		}
	}
}

// void tells whether an interrupt came after the call was made.
func (r *runner) void(e api.Event) bool {
	return !r.voidUntil.IsZero() && (e.ProcessedAt == nil || !e.ProcessedAt.After(r.voidUntil))
}

// begin starts the calls that may run. Those of one shell run one after the
// other in the order they were made, for each may build on the one before. Each
// thread has its own shell.
func (r *runner) begin(ctx context.Context) {
	busy := map[string]bool{} // shells, by name
	for _, id := range r.order {
		c := r.calls[id]
		shell := c.event.Name == api.ToolBash
		if c.held || shell && busy[shellOf(c.event)] {
			continue
		}
		if shell {
			busy[shellOf(c.event)] = true
		}
		if c.running {
			continue
		}
		var callCtx context.Context
		callCtx, c.cancel = context.WithCancel(ctx)
		c.running = true
		go r.answer(callCtx, id, *c)
	}
}

// shellOf names the shell of a call, "" for the primary thread's.
func shellOf(e api.Event) string {
	if e.SessionThreadID == nil {
		return ""
	}
	return *e.SessionThreadID
}

// done takes in how a call ended.
func (r *runner) done(f finished) error {
	c := r.calls[f.id]
	c.running = false
	c.cancel()
	if f.err != nil {
		return fmt.Errorf("call %s: %w", f.id, f.err)
	}
	if f.result != nil {
		c.result = f.result
	}
	if f.posted || r.settled[f.id] {
		r.settled[f.id] = true
		r.drop(f.id)
	}
	r.belongings.syncMemoriesIfDue()
	// What was not posted within the life of the lease is posted again, as it
	// is, at the next turn of the loop.
	return nil
}

// answer runs a call, unless it has run already, and posts its result.
func (r *runner) answer(ctx context.Context, id string, c call) {
	f := finished{id: id, result: c.result}
	if f.result == nil {
		f.result, f.err = r.execute(ctx, c.event)
	}
	if f.result != nil && ctx.Err() == nil {
		if f.posted, f.err = r.post(ctx, id, *f.result); f.err != nil {
			f.err = fmt.Errorf("post its result: %w", f.err)
		}
	}
	if ctx.Err() != nil {
		f.err = nil // it was stopped, which says nothing of the rest
	}
	r.finished <- f
}

// execute runs a call in the sandbox. A call that an earlier life of this
// worker began, and whose result was not accepted, is not run a second time:
// the model is told, and decides.
func (r *runner) execute(ctx context.Context, e api.Event) (*hand.Result, error) {
	again, err := r.place.begin(e.ID)
	if err != nil {
		return nil, err
	}
	if again {
		return failure(e.ID, "The worker was stopped while this call ran. It may have run in part or as a whole; look before you repeat it. The shell session is a new one."), nil
	}
	began := time.Now()
	result, lost, err := r.box.call(ctx, hand.Call{ID: e.ID, Tool: e.Name, Input: e.Input, Shell: shellOf(e), Timeout: r.CallTimeout})
	switch {
	case ctx.Err() != nil:
		r.log.Info("a call was stopped", "call", e.ID, "tool", e.Name)
		return nil, ctx.Err()
	case lost:
		r.log.Warn("the sandbox was lost under a call", "call", e.ID, "tool", e.Name, "error", err)
		return failure(e.ID, lostBecause(err)+" A new one has been started. Files in the working directory are as they were; the shell session, background jobs and everything outside the working directory are gone."), nil
	case err != nil:
		r.place.finish(e.ID)
		return nil, err
	}
	result.Text = r.belongings.notes() + result.Text
	r.log.Debug("ran a call", "call", e.ID, "tool", e.Name, "error", result.IsError, "took", time.Since(began).Round(time.Microsecond))
	return &result, nil
}

// lostBecause tells the agent why its sandbox is gone.
func lostBecause(err error) string {
	var limit *sandbox.LimitError
	if errors.As(err, &limit) {
		return "The sandbox reached its limit of " + limit.Limit + ", and was ended."
	}
	return "The sandbox was lost while this call ran."
}

func failure(id, text string) *hand.Result { return &hand.Result{ID: id, IsError: true, Text: text} }

// post has a result accepted, or settles that it never will be, which is true; it
// is false when the server cannot be asked. The error is that the server takes
// nothing from this activation.
func (r *runner) post(ctx context.Context, id string, result hand.Result) (settled bool, err error) {
	err = r.send(ctx, id, result)
	if !isRefusal(err) {
		return err == nil, nil
	}
	r.log.Warn("a result was refused", "call", id, "error", err)
	if isStatus(err, http.StatusUnauthorized) {
		return false, err
	}
	// Most often somebody else has answered, or the call was interrupted. But what
	// is in the way may also dislike what it says, or how much it is, and the session
	// would wait for ever.
	err = r.send(ctx, id, *failure(id, fmt.Sprintf("The call has run, but its result, of %d bytes, was not let through to you: %v. What it did, it has done; look at less of what it says at a time.", len(result.Text), err)))
	switch {
	case err == nil:
		r.log.Info("told the agent that a result was refused", "call", id)
		return true, nil
	case !isRefusal(err):
		return false, nil
	case isStatus(err, http.StatusUnauthorized), isStatus(err, http.StatusForbidden):
		return false, err
	}
	return true, nil
}

// postAttempt bounds one attempt to post a result.
const postAttempt = 15 * time.Second

// send posts a result until there is an answer, or the lease's time is up.
func (r *runner) send(ctx context.Context, id string, result hand.Result) error {
	body := map[string]any{"events": []any{map[string]any{
		"type": api.EventUserToolResult, "tool_use_id": id, "is_error": result.IsError, "content": []api.Block{api.TextBlock(result.Text)},
	}}}
	deadline := time.Now().Add(r.lease.lasts())
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, postAttempt)
		err := r.wire.do(attempt, "POST", sessionPath(r.item.SessionID)+"/events", nil, body, nil)
		cancel()
		if err == nil || ctx.Err() != nil || isRefusal(err) {
			return err
		}
		pause := backoff(n, time.Second, 30*time.Second, err)
		if time.Now().Add(pause).After(deadline) {
			r.log.Warn("could not post a result; trying again later", "call", id, "error", err)
			return err
		}
		if sleep(ctx, pause) != nil {
			return err
		}
	}
}
