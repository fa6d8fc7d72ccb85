package session

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
)

// folded is what a log says of its session to somebody who has nothing else.
type folded struct {
	status   api.SessionStatus
	waitsFor []string // the calls named by the idle status, if it is idle
	usage    api.SessionUsage
	title    *string
	calls    []*foldedCall // in order

	runningSince time.Time // zero: it is not running
	active       time.Duration

	primaryID string
	threads   map[string]*foldedThread // by id
}

// foldedThread is what a session's log says of a thread.
type foldedThread struct {
	status   api.SessionStatus
	waitsFor []string
}

// thread is what the log says of a thread, "" for the primary one.
func (f *folded) thread(id string) *foldedThread {
	if id == "" {
		id = f.primaryID
	}
	if f.threads[id] == nil {
		return &foldedThread{status: api.SessionIdle}
	}
	return f.threads[id]
}

// moveThread changes the status of a thread by one of the causes, as the table
// allows. The first to be heard of is the primary one.
func (f *folded) moveThread(t rapid.TB, e api.Event, to api.SessionStatus, causes ...cause) {
	t.Helper()
	id := *e.SessionThreadID
	if f.primaryID == "" {
		f.primaryID = id
	}
	said := f.thread(id)
	allowed := slices.ContainsFunc(causes, func(c cause) bool {
		got, ok := transitions[said.status][c]
		return ok && got == to
	})
	if !allowed {
		t.Fatalf("the log takes thread %s from %s to %s by %v, which is not in the table", id, said.status, to, causes)
	}
	f.threads[id] = &foldedThread{status: to}
	if e.StopReason != nil && to == api.SessionIdle {
		f.threads[id].waitsFor = e.StopReason.EventIDs
	}
}

// standing is what the threads' statuses come to.
func (f *folded) standing() api.SessionStatus {
	status := f.thread("").status
	for id, said := range f.threads {
		if id != f.primaryID && (said.status == api.SessionRunning || said.status == api.SessionRescheduling && status == api.SessionIdle) && status != api.SessionTerminated {
			status = said.status
		}
	}
	return status
}

type foldedCall struct {
	id, kind, permission string
	thread               string // "" for the primary one
	confirmed            bool
	results              []string // ids
}

// runnable tells whether hands may run the call.
func (c *foldedCall) runnable() bool {
	return c.kind == string(CallHands) && (c.permission == api.PermissionAllow || c.confirmed)
}

func (f *folded) call(id string) *foldedCall {
	if i := slices.IndexFunc(f.calls, func(c *foldedCall) bool { return c.id == id }); i >= 0 {
		return f.calls[i]
	}
	return nil
}

// open lists the calls without a result.
func (f *folded) open() []*foldedCall {
	var open []*foldedCall
	for _, c := range f.calls {
		if len(c.results) == 0 {
			open = append(open, c)
		}
	}
	return open
}

// fold reads a log up to now. It fails the test where the log contradicts
// itself or the state machine.
func fold(t rapid.TB, log []StoredEvent, now time.Time) *folded {
	t.Helper()
	f := &folded{status: api.SessionIdle, waitsFor: []string{}, threads: map[string]*foldedThread{}}
	var last api.Event
	for _, stored := range log {
		e := decodeEvent(t, stored.JSON)
		if e.ID != stored.ID || e.Type != stored.Type {
			t.Fatalf("event %d is %s %s, its JSON %s", stored.Seq, stored.Type, stored.ID, stored.JSON)
		}
		if e.ProcessedAt == nil {
			continue // has yet to take effect
		}
		if last.ProcessedAt != nil && e.ProcessedAt.Before(*last.ProcessedAt) {
			t.Fatalf("%s of %v follows %s of %v", e.Type, e.ProcessedAt, last.Type, last.ProcessedAt)
		}
		if f.status == api.SessionTerminated {
			t.Fatalf("%s follows the end of the session", e.Type)
		}
		f.add(t, e, stored.JSON, last)
		last = e
	}
	f.runUntil(now)
	return f
}

func (f *folded) add(t rapid.TB, e api.Event, raw json.RawMessage, before api.Event) {
	t.Helper()
	switch e.Type {
	case api.EventSessionStatusRunning:
		f.move(t, *e.ProcessedAt, api.SessionRunning, causeInput)
	case api.EventSessionStatusRescheduled:
		f.move(t, *e.ProcessedAt, api.SessionRescheduling, causeRetry)
	case api.EventSessionStatusTerminated:
		f.move(t, *e.ProcessedAt, api.SessionTerminated, causeFatal, causeArchive)
	case api.EventSessionStatusIdle:
		f.goIdle(t, e, before)
	case api.EventThreadStatusRunning:
		f.moveThread(t, e, api.SessionRunning, causeInput)
	case api.EventThreadStatusRescheduled:
		f.moveThread(t, e, api.SessionRescheduling, causeRetry)
	case api.EventThreadStatusTerminated:
		f.moveThread(t, e, api.SessionTerminated, causeFatal, causeArchive)
	case api.EventThreadStatusIdle:
		f.moveThread(t, e, api.SessionIdle, causeWait, causeEnd)
	case api.EventSessionUsage:
		f.runUntil(*e.ProcessedAt)
		got := *e.Usage
		if f.children() { // what they have used is in their logs
			got.InputTokens, got.OutputTokens, got.CacheReadInputTokens, got.CacheCreation = f.usage.InputTokens, f.usage.OutputTokens, f.usage.CacheReadInputTokens, f.usage.CacheCreation
		}
		if !reflect.DeepEqual(got, f.usage) {
			t.Fatalf("session.usage says %+v, the log before it %+v", *e.Usage, f.usage)
		}
	case api.EventModelRequestEnd:
		f.usage.InputTokens += e.ModelUsage.InputTokens
		f.usage.OutputTokens += e.ModelUsage.OutputTokens
		f.usage.CacheReadInputTokens += e.ModelUsage.CacheReadInputTokens
		f.usage.CacheCreation.Ephemeral5m += e.ModelUsage.CacheCreationInputTokens
	case api.EventSessionUpdated:
		var update api.SessionUpdatedEvent
		if err := json.Unmarshal(raw, &update); err != nil {
			t.Fatal(err)
		}
		f.title = update.Title
	default:
		f.addCall(t, e)
	}
}

func (f *folded) addCall(t rapid.TB, e api.Event) {
	t.Helper()
	thread := ""
	if e.SessionThreadID != nil {
		thread = *e.SessionThreadID
	}
	switch e.Type {
	case api.EventAgentToolUse:
		f.calls = append(f.calls, &foldedCall{id: e.ID, thread: thread, kind: string(CallHands), permission: e.EvaluatedPermission})
	case api.EventAgentCustomToolUse:
		f.calls = append(f.calls, &foldedCall{id: e.ID, thread: thread, kind: string(CallCustom), permission: api.PermissionAllow})
	case api.EventUserToolConfirmation:
		f.call(e.ToolUseID).confirmed = true
	case api.EventUserToolResult, api.EventAgentToolResult, api.EventUserCustomToolResult:
		c := f.call(e.ToolUseID + e.CustomToolUseID)
		if c == nil || len(c.results) > 0 {
			t.Fatalf("%s %s answers %+v", e.Type, e.ID, c)
		}
		c.results = append(c.results, e.ID)
	}
}

// goIdle wants the idle status to come right after the usage, and to say for
// why, so that workers that leave on it have seen all of the turn.
func (f *folded) goIdle(t rapid.TB, e, before api.Event) {
	t.Helper()
	if before.Type != api.EventSessionUsage {
		t.Fatalf("%s comes right before the session goes idle", before.Type)
	}
	c := causeEnd
	f.waitsFor = []string{}
	if e.StopReason.Type == api.StopRequiresAction {
		c, f.waitsFor = causeWait, e.StopReason.EventIDs
	}
	f.move(t, *e.ProcessedAt, api.SessionIdle, c)
}

// move changes the status by one of the causes, as the table allows.
func (f *folded) move(t rapid.TB, at time.Time, to api.SessionStatus, causes ...cause) {
	t.Helper()
	allowed := slices.ContainsFunc(causes, func(c cause) bool {
		got, ok := transitions[f.status][c]
		return ok && got == to
	})
	if !allowed {
		t.Fatalf("the log takes the session from %s to %s by %v, which is not in the table", f.status, to, causes)
	}
	f.runUntil(at)
	f.status, f.runningSince = to, time.Time{}
	if to == api.SessionRunning {
		f.runningSince = at
	}
	if to != api.SessionIdle {
		f.waitsFor = []string{}
	}
}

// children tells whether there are threads besides the primary one.
func (f *folded) children() bool { return len(f.threads) > 1 }

// runUntil counts the time the session has been running.
func (f *folded) runUntil(at time.Time) {
	if f.runningSince.IsZero() {
		return
	}
	f.active += at.Sub(f.runningSince)
	f.runningSince = at
	f.usage.ActiveSeconds = float64(f.active.Microseconds()) / 1e6
}
