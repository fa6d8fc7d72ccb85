package queue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// bench is a queue whose clock and whose sessions' needs are the test's.
type bench struct {
	q     *Queue
	ctx   context.Context // ends before the test would hang
	clock *clock
	needs *needs
	env   string
}

// each runs a test on each database.
func each(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) { test(t, newBench(t, d)) })
}

// migrated has the queue's tables.
var migrated = dbtest.NewTemplate(func(tb testing.TB, d *db.DB) { newBench(tb, d) })

// maxOffers is the cap of the queues under test.
const maxOffers = 4

func newBench(t testing.TB, d *db.DB) *bench {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	b := &bench{
		ctx:   ctx,
		clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
		needs: &needs{waiting: map[string]bool{}, left: map[string]int{}, givenUp: map[string]int{}},
		env:   api.NewID(api.PrefixEnvironment),
	}
	b.q = b.server(t, d)
	return b
}

// server is one more server's queue on the same clock and needs.
func (b *bench) server(t testing.TB, d *db.DB) *Queue {
	t.Helper()
	q, err := New(b.ctx, Config{
		DB: d, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), SigningKey: []byte("a key that signs only in this test"),
		Sessions: b.needs, MaxOffers: maxOffers,
	})
	if err != nil {
		t.Fatal(err)
	}
	q.now = b.clock.now
	return q
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

// needs stands for the sessions: which of them wait for hands, how often a
// worker has left one unfinished, and how often the queue has given one up.
type needs struct {
	mu      sync.Mutex
	waiting map[string]bool // guarded by mu
	left    map[string]int  // guarded by mu
	givenUp map[string]int  // guarded by mu
}

func (n *needs) Lock(context.Context, db.Tx, string) error { return nil }

func (n *needs) Demand(_ context.Context, _ db.Tx, sessionID string) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[sessionID], nil
}

func (n *needs) Unfinished(_ context.Context, _ db.Tx, sessionID string, again bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if again {
		n.left[sessionID]++
	} else {
		n.givenUp[sessionID]++
	}
	return nil
}

func (n *needs) set(sessionID string, waiting bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[sessionID] = waiting
}

func (n *needs) leftUnfinished(sessionID string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.left[sessionID]
}

func (n *needs) givenUpOn(sessionID string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.givenUp[sessionID]
}

// offer offers a session, a new one when none is named.
func (b *bench) offer(t rapid.TB, sessionID string, progress bool) string {
	t.Helper()
	if sessionID == "" {
		sessionID = api.NewID(api.PrefixSession)
	}
	if err := b.q.DB.Write(b.ctx, func(tx db.Tx) error { return b.q.Offer(b.ctx, tx, b.env, sessionID, progress) }); err != nil {
		t.Fatalf("offer: %v", err)
	}
	return sessionID
}

// poll claims what is on offer now, nil when nothing is.
func (b *bench) poll(t rapid.TB, p PollParams) *api.Work {
	t.Helper()
	p.EnvironmentID = b.env
	w, err := b.q.Poll(b.ctx, p)
	if err != nil {
		t.Fatalf("poll: %v", err)
	}
	return w
}

// acknowledged is an item just offered, claimed and acknowledged.
func (b *bench) acknowledged(t rapid.TB) *api.Work {
	t.Helper()
	b.offer(t, "", false)
	w := b.poll(t, PollParams{})
	b.ack(t, w)
	return w
}

func (b *bench) ack(t rapid.TB, w *api.Work) {
	t.Helper()
	if _, err := b.q.Ack(b.ctx, b.env, w.ID); err != nil {
		t.Fatalf("ack: %v", err)
	}
}

// leased is an item whose lease has been taken, with the heartbeat that took it.
func (b *bench) leased(t rapid.TB) (*api.Work, string) {
	t.Helper()
	w := b.acknowledged(t)
	return w, b.mustBeat(t, w.ID, api.NoHeartbeat).LastHeartbeat
}

func (b *bench) beat(workID, expected string, claim int64) (api.Heartbeat, error) {
	return b.q.Heartbeat(b.ctx, HeartbeatParams{EnvironmentID: b.env, WorkID: workID, Expected: &expected, Claim: claim})
}

func (b *bench) mustBeat(t rapid.TB, workID, expected string) api.Heartbeat {
	t.Helper()
	beat, err := b.beat(workID, expected, 0)
	if err != nil {
		t.Fatalf("heartbeat: %v", err)
	}
	return beat
}

func (b *bench) sweep(t rapid.TB) {
	t.Helper()
	if _, err := b.q.sweep(b.ctx); err != nil {
		t.Fatalf("sweep: %v", err)
	}
}

func (b *bench) wantState(t rapid.TB, workID string, want api.WorkState) {
	t.Helper()
	w, err := b.q.Get(b.ctx, b.env, workID)
	if err != nil {
		t.Fatal(err)
	}
	if w.State != want {
		t.Errorf("item is %s, want %s", w.State, want)
	}
}

// token takes the sessions token out of a claimed item.
func token(t rapid.TB, w *api.Work) string {
	t.Helper()
	if w.Secret == nil {
		t.Fatal("the item came without its secret")
	}
	raw, err := base64.RawURLEncoding.DecodeString(*w.Secret)
	if err != nil {
		t.Fatalf("the secret is not URL-safe base64: %v", err)
	}
	var s api.WorkSecret
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatalf("the secret does not hold JSON: %v", err)
	}
	return s.SessionsToken
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

func wantStatus(t rapid.TB, what string, err error, want int) {
	t.Helper()
	if got := status(t, err); got != want {
		t.Errorf("%s: status %d (%v), want %d", what, got, err, want)
	}
}

func (b *bench) retire(t rapid.TB, sessionID string) {
	t.Helper()
	if err := b.q.DB.Write(b.ctx, func(tx db.Tx) error { return b.q.Retire(b.ctx, tx, sessionID) }); err != nil {
		t.Fatalf("retire: %v", err)
	}
}
