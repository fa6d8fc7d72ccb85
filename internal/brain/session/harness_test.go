package session

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
	"hearth/internal/brain/price"
	"hearth/internal/brain/queue"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// TestMain keeps everyday runs short, with stories that are few and long;
// -rapid.checks asks for more of them.
func TestMain(m *testing.M) {
	for name, everyday := range map[string]string{"rapid.checks": "15", "rapid.steps": "40"} {
		if err := flag.Set(name, everyday); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// bench is a store of sessions with a real queue and a clock that is the test's.
type bench struct {
	ctx   context.Context // ends before the test would hang
	db    *db.DB
	store *Store
	queue *queue.Queue
	clock *clock
}

const (
	workspace   = "wrkspc_test"
	environment = "env_test"
	runTTL      = 30 * time.Second
)

// roster is whom the sessions' agent can call on.
const roster = `{"type":"coordinator","agents":[{"id":"agent_helper","type":"agent","version":1,"name":"helper","model":{"id":"test-model"}}]}`

// testModel is what sessions think with, at prices that make a few tokens a cent.
var (
	testModel  = api.ModelConfig{ID: "test-model"}
	testPrices = func() *price.Table {
		t, err := price.Parse([]byte(`{"models": {"test-model": {"input": 1000, "output": 5000}}}`))
		if err != nil {
			panic(err)
		}
		return t
	}()
)

// each runs a test on each database.
func each(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) { test(t, newBench(t, d)) })
}

// migrated has the tables of sessions and of the queue.
var migrated = dbtest.NewTemplate(func(tb testing.TB, d *db.DB) { newBench(tb, d) })

func newBench(t testing.TB, d *db.DB) *bench {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	b := &bench{ctx: ctx, db: d, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}}
	b.store = b.server(t, d)
	q, err := queue.New(ctx, queue.Config{
		DB: d, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), SigningKey: make([]byte, 32),
		Sessions: b.store, MaxOffers: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.queue = q
	b.store.UseQueue(q)
	return b
}

// server is one more server's store, on the same clock and without a queue.
func (b *bench) server(t testing.TB, d *db.DB) *Store {
	t.Helper()
	s, err := New(b.ctx, Config{DB: d, RunTTL: runTTL, Prices: testPrices})
	if err != nil {
		t.Fatal(err)
	}
	s.now = b.clock.now
	return s
}

// clock stands still until it is told to advance.
type clock struct {
	mu sync.Mutex
	at time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func (b *bench) create(t rapid.TB, environmentType string) string {
	t.Helper()
	s, err := b.store.Create(b.ctx, CreateParams{
		WorkspaceID: workspace, EnvironmentID: environment, EnvironmentType: environmentType,
		Agent: api.SessionAgent{ID: "agent_test", Type: "agent", Version: 1, Name: "tester", Model: testModel, Multiagent: json.RawMessage(roster)},
	})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return s.ID
}

// send sends events and returns their ids, those of the log.
func (b *bench) send(t rapid.TB, id string, from Sender, events ...map[string]any) []string {
	t.Helper()
	stored, err := b.trySend(t, id, from, events...)
	if err != nil {
		t.Fatalf("send %v: %v", events, err)
	}
	ids := make([]string, len(stored))
	for i, raw := range stored {
		ids[i] = decodeEvent(t, raw).ID
	}
	return ids
}

func (b *bench) trySend(t rapid.TB, id string, from Sender, events ...map[string]any) ([]json.RawMessage, error) {
	t.Helper()
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		raws[i] = raw
	}
	return b.store.Send(b.ctx, id, from, raws)
}

func decodeEvent(t rapid.TB, raw json.RawMessage) api.Event {
	t.Helper()
	var e api.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatalf("decode %s: %v", raw, err)
	}
	return e
}

func text(s string) []map[string]any { return []map[string]any{{"type": "text", "text": s}} }

func message(s string) map[string]any {
	return map[string]any{"type": "user.message", "content": text(s)}
}

func interrupt() map[string]any { return map[string]any{"type": "user.interrupt"} }

func result(callID, s string) map[string]any {
	return map[string]any{"type": "user.tool_result", "tool_use_id": callID, "content": text(s)}
}

func customResult(callID, s string) map[string]any {
	return map[string]any{"type": "user.custom_tool_result", "custom_tool_use_id": callID, "content": text(s)}
}

// claim takes the run of the session that is due; there must be one.
func (b *bench) claim(t rapid.TB) *Run {
	t.Helper()
	run, err := b.store.Claim(b.ctx)
	if err != nil || run == nil {
		t.Fatalf("claim a session: %+v, %v", run, err)
	}
	return run
}

// says has the model answer the session that is due with drafts.
func (b *bench) says(t rapid.TB, drafts ...Draft) {
	t.Helper()
	run := b.claim(t)
	if _, _, err := run.BeginRequest(b.ctx); err != nil {
		t.Fatalf("begin a request: %v", err)
	}
	if err := run.CompleteRequest(b.ctx, Completion{Drafts: drafts}); err != nil {
		t.Fatalf("complete the request: %v", err)
	}
}

// handsCall drafts a call of a built-in tool, whose id it returns too.
func handsCall(permission string) (Draft, string) {
	id := api.NewID(api.PrefixEvent)
	return Draft{
		Event: &api.ToolUseEvent{
			EventHead: api.EventHead{ID: id, Type: api.EventAgentToolUse},
			Name:      "bash", Input: json.RawMessage(`{"command":"true"}`), EvaluatedPermission: permission,
		},
		Call: &Call{Kind: CallHands, Name: "bash", Permission: permission},
	}, id
}

// customCall drafts a call that the application answers.
func customCall() (Draft, string) {
	id := api.NewID(api.PrefixEvent)
	return Draft{
		Event: &api.CustomToolUseEvent{EventHead: api.EventHead{ID: id, Type: api.EventAgentCustomToolUse}, Name: "look_up", Input: json.RawMessage(`{}`)},
		Call:  &Call{Kind: CallCustom, Name: "look_up", Permission: api.PermissionAllow},
	}, id
}

// waiting is a session that waits for one call of a built-in tool.
func (b *bench) waiting(t rapid.TB, environmentType string) (id, callID string) {
	t.Helper()
	id = b.create(t, environmentType)
	b.send(t, id, SenderClient, message("go"))
	call, callID := handsCall(api.PermissionAllow)
	b.says(t, call)
	return id, callID
}

// log reads a session's whole log, a few events at a time.
func (b *bench) log(t rapid.TB, id string) []StoredEvent {
	t.Helper()
	var all []StoredEvent
	for cursor, more := int64(0), true; more; {
		var page []StoredEvent
		var err error
		page, more, err = b.store.Events(b.ctx, id, EventFilter{Limit: 25, CursorSeq: cursor})
		if err != nil {
			t.Fatalf("list events: %v", err)
		}
		if all = append(all, page...); len(all) > 0 {
			cursor = all[len(all)-1].Seq
		}
	}
	return all
}

// status is the HTTP status an error would be answered with, 0 for none.
func status(t rapid.TB, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an error for a client: %v", err)
	}
	return e.Status
}
