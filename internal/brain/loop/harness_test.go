package loop_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/loop"
	"hearth/internal/brain/model"
	"hearth/internal/brain/model/anthropic"
	"hearth/internal/brain/queue"
	"hearth/internal/brain/session"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
	"hearth/test/fakemodel"
)

// brain is a real session store and queue with a scripted model behind the real
// adapter.
type brain struct {
	t        *testing.T
	ctx      context.Context // ends before the test would hang
	db       *db.DB
	sessions *session.Store
	model    *fakemodel.Server
	cfg      loop.Config
}

// each runs a test on each database.
func each(t *testing.T, test func(b *brain)) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) { test(newBrain(t, d)) })
}

// migrated has the tables of sessions and of the queue.
var migrated = dbtest.NewTemplate(func(tb testing.TB, d *db.DB) {
	if _, err := newSessions(tb.Context(), d); err != nil {
		tb.Fatal(err)
	}
})

func newBrain(t *testing.T, d *db.DB) *brain {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	sessions, err := newSessions(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	b := &brain{t: t, ctx: ctx, db: d, sessions: sessions, model: fakemodel.Start(t)}
	b.cfg = loop.Config{
		Sessions: sessions, Adapter: anthropic.New(anthropic.Config{BaseURL: b.model.URL(), APIKey: fakemodel.Key}),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Backoff: time.Millisecond, RenewEvery: 200 * time.Millisecond,
	}
	return b
}

func newSessions(ctx context.Context, d *db.DB) (*session.Store, error) {
	sessions, err := session.New(ctx, session.Config{DB: d, RunTTL: 2 * time.Second})
	if err != nil {
		return nil, err
	}
	q, err := queue.New(ctx, queue.Config{DB: d, SigningKey: make([]byte, 32), Sessions: sessions})
	if err != nil {
		return nil, err
	}
	sessions.UseQueue(q)
	return sessions, nil
}

// run starts a loop; stop ends it and waits for it, at the latest with the test.
func (b *brain) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- loop.New(b.cfg).Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("the loop ended with %v", err)
		}
	}
	b.t.Cleanup(stop)
	return stop
}

// talk is one session, followed event by event.
type talk struct {
	*brain
	id       string
	sub      *session.Subscription
	events   []api.Event // that took effect, in the order they were delivered
	previews []preview
}

// preview is event_start or event_delta.
type preview struct {
	Type    api.EventType    `json:"type"`
	Event   api.PreviewEvent `json:"event"`
	EventID string           `json:"event_id"`
	Delta   api.ContentDelta `json:"delta"`
}

// builtIn is the built-in toolset with the policy for all tools, but for those in configs.
func builtIn(policy string, configs ...api.ToolConfig) api.Tool {
	return api.Tool{
		Type: api.ToolTypeAgentToolset, Configs: configs,
		DefaultConfig: &api.ToolsetDefault{Enabled: true, PermissionPolicy: api.PermissionPolicy{Type: policy}},
	}
}

// talk opens a session in a self-hosted environment.
func (b *brain) talk(tools ...api.Tool) *talk {
	b.t.Helper()
	return b.talkWith(nil, tools...)
}

// talkWith opens one that has resources mounted.
func (b *brain) talkWith(resources []json.RawMessage, tools ...api.Tool) *talk {
	b.t.Helper()
	system := "Speak plainly."
	s, err := b.sessions.Create(b.ctx, session.CreateParams{
		WorkspaceID: "wrkspc_default", EnvironmentID: "env_test", EnvironmentType: api.EnvironmentSelfHosted,
		Agent:     api.SessionAgent{ID: "agent_test", Type: "agent", Version: 1, Name: "tester", Model: api.ModelConfig{ID: "test-model"}, System: &system, Tools: tools},
		Resources: resources,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	sub, err := b.sessions.Subscribe(b.ctx, s.ID, "")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(sub.Close)
	return &talk{brain: b, id: s.ID, sub: sub}
}

// send sends events as a client does and returns the ids they got.
func (c *talk) send(events ...map[string]any) []string {
	c.t.Helper()
	stored, err := c.trySend(events...)
	if err != nil {
		c.t.Fatal(err)
	}
	ids := make([]string, len(stored))
	for i, raw := range stored {
		var e api.Event
		if err := json.Unmarshal(raw, &e); err != nil {
			c.t.Fatal(err)
		}
		ids[i] = e.ID
	}
	return ids
}

func (c *talk) trySend(events ...map[string]any) ([]json.RawMessage, error) {
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			c.t.Fatal(err)
		}
		raws[i] = raw
	}
	return c.sessions.Send(c.ctx, c.id, session.SenderClient, raws)
}

func text(s string) []map[string]any { return []map[string]any{{"type": "text", "text": s}} }

func message(s string) map[string]any {
	return map[string]any{"type": "user.message", "content": text(s)}
}

func interrupt() map[string]any { return map[string]any{"type": "user.interrupt"} }

func result(callID, s string) map[string]any {
	return map[string]any{"type": "user.tool_result", "tool_use_id": callID, "content": text(s)}
}

// read takes in what the session's subscription delivers next and returns the
// events among it that took effect.
func (c *talk) read(waitingFor string) []api.Event {
	c.t.Helper()
	batch, err := c.sub.Next(c.ctx)
	if err != nil {
		c.t.Fatalf("wait for %s: %v; seen: %v and %d previews", waitingFor, err, c.types(), len(c.previews))
	}
	var events []api.Event
	for _, stored := range batch {
		if stored.Seq == 0 {
			var p preview
			if err := json.Unmarshal(stored.JSON, &p); err != nil {
				c.t.Fatal(err)
			}
			c.previews = append(c.previews, p)
			continue
		}
		var e api.Event
		if err := json.Unmarshal(stored.JSON, &e); err != nil {
			c.t.Fatal(err)
		}
		if e.ProcessedAt != nil {
			events = append(events, e)
		}
	}
	c.events = append(c.events, events...)
	return events
}

// next follows the session until an event that want accepts has taken effect.
func (c *talk) next(what string, want func(api.Event) bool) api.Event {
	c.t.Helper()
	for {
		events := c.read(what)
		if i := slices.IndexFunc(events, want); i >= 0 {
			return events[i]
		}
	}
}

// wantStop follows the session until it goes idle and returns why it did, which
// must be for the reason given. The idle event must be the last there is.
func (c *talk) wantStop(want string) api.StopReason {
	c.t.Helper()
	idle := c.next(string(api.EventSessionStatusIdle), func(e api.Event) bool { return e.Type == api.EventSessionStatusIdle })
	if last := c.events[len(c.events)-1]; last.ID != idle.ID {
		c.t.Errorf("%s came after the session went idle", last.Type)
	}
	if idle.StopReason.Type != want {
		c.t.Fatalf("stop reason %s, want %s; events: %v", idle.StopReason.Type, want, c.types())
	}
	return *idle.StopReason
}

// previewed follows the session until some preview has come that want accepts.
func (c *talk) previewed(want func(preview) bool) preview {
	c.t.Helper()
	for {
		if i := slices.IndexFunc(c.previews, want); i >= 0 {
			return c.previews[i]
		}
		c.read("a preview")
	}
}

// of lists the events of a type seen so far.
func (c *talk) of(kind api.EventType) []api.Event {
	var all []api.Event
	for _, e := range c.events {
		if e.Type == kind {
			all = append(all, e)
		}
	}
	return all
}

func (c *talk) types() []api.EventType {
	types := make([]api.EventType, len(c.events))
	for i, e := range c.events {
		types[i] = e.Type
	}
	return types
}

// said joins the texts of the agent's messages seen so far.
func (c *talk) said() string {
	var texts []string
	for _, e := range c.of(api.EventAgentMessage) {
		for _, b := range e.Content {
			texts = append(texts, b.Text)
		}
	}
	return strings.Join(texts, "|")
}

// request is the next request the model got.
func (b *brain) request() *fakemodel.Request {
	b.t.Helper()
	r, err := b.model.Next(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// await waits for a channel to be closed.
func (b *brain) await(what string, closed <-chan struct{}) {
	b.t.Helper()
	select {
	case <-closed:
	case <-b.ctx.Done():
		b.t.Fatalf("waited in vain for %s", what)
	}
}

// panicking is a model adapter with a mistake in it.
type panicking struct{}

func (panicking) Name() string { return "panicking" }

func (panicking) Stream(context.Context, model.Request, func(model.Delta)) (model.Reply, error) {
	panic("a mistake")
}
