package db

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

// channel carries every notice, its topic inside: Postgres cannot listen to
// ten thousand channels cheaply.
const channel = "hearth"

const (
	// aliveEvery is how often a process that says nothing else says that it lives.
	aliveEvery = time.Second
	// deadAfter is the silence after which a process counts as dead, and what it
	// had committed without having announced it is to be looked for.
	deadAfter = 5 * time.Second
	// maxPayload is what Postgres takes, less what encoding adds.
	maxPayload = 7000
	// maxBatch bounds the notices of one statement.
	maxBatch = 1000
)

// An announcement without a topic is about its sender.
const (
	senderLives = "alive"
	senderEnds  = "bye"
)

// announcer tells the other processes what has happened in this one, and hears
// what they tell. Postgres lets transactions that notify commit only one after
// the other; so notices are not part of the transactions they come from, but
// follow them, many at once. Those that a killed process could not send any more
// are made good by all others looking for themselves once it has fallen silent.
type announcer struct {
	hub    *hub
	pool   *sql.DB
	origin string // tells this process's notices from those of others
	log    *slog.Logger

	mu      sync.Mutex
	pending []string      // encoded; guarded by mu
	queued  chan struct{} // told when there is something pending

	heard map[string]time.Time // other processes, by origin; the listener's own
}

func newAnnouncer(h *hub, pool *sql.DB, log *slog.Logger) *announcer {
	return &announcer{hub: h, pool: pool, origin: rand.Text(), log: log, queued: make(chan struct{}, 1), heard: map[string]time.Time{}}
}

// announce queues notices for the other processes.
func (a *announcer) announce(notices ...notice) {
	if len(notices) == 0 {
		return
	}
	a.mu.Lock()
	for _, n := range notices {
		a.pending = append(a.pending, a.encode(n))
	}
	a.mu.Unlock()
	select {
	case a.queued <- struct{}{}:
	default: // it has been told already
	}
}

func (a *announcer) encode(n notice) string {
	if len(n.payload) > maxPayload {
		n.payload = ""
	}
	raw, _ := json.Marshal([]string{a.origin, n.topic, n.payload}) // strings always encode
	return string(raw)
}

// run sends what is announced until ctx ends, and then what is left.
func (a *announcer) run(ctx context.Context) {
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadAfter)
			defer cancel()
			a.announce(notice{payload: senderEnds})
			for a.send(last) {
			}
			return
		case <-alive.C:
			a.announce(notice{payload: senderLives})
		case <-a.queued:
		}
		for a.send(ctx) {
		}
	}
}

// send sends a batch and tells whether there is more to send now.
func (a *announcer) send(ctx context.Context) (more bool) {
	a.mu.Lock()
	batch := a.pending[:min(len(a.pending), maxBatch)]
	a.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	// Nobody needs it to be durable: who crashes has forgotten its listeners too.
	_, err := a.pool.ExecContext(ctx, `WITH quickly AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
		SELECT pg_notify($1, n) FROM quickly, unnest($2::text[]) WITH ORDINALITY AS t(n, i) ORDER BY i`, channel, batch)
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("could not tell other servers what has happened; trying again", "error", withoutURL(err))
		}
		return false // with the next notice, or sign of life
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending = a.pending[len(batch):]; len(a.pending) == 0 {
		a.pending = nil
	}
	return len(a.pending) > 0
}

// hear takes in what a process has announced.
func (a *announcer) hear(payload string) {
	var parts [3]string
	if err := json.Unmarshal([]byte(payload), &parts); err != nil {
		return // not from a Hearth
	}
	origin, n := parts[0], notice{parts[1], parts[2]}
	switch {
	case origin == a.origin: // our own were delivered at the commit
	case n.topic == "" && n.payload == senderEnds:
		delete(a.heard, origin)
	default:
		a.heard[origin] = time.Now()
		if n.topic != "" {
			a.hub.deliver(n)
		}
	}
}

// missDead has every subscriber look for itself if a process has died.
func (a *announcer) missDead() {
	died := false
	for origin, last := range a.heard {
		if time.Since(last) > deadAfter {
			delete(a.heard, origin)
			died = true
		}
	}
	if died {
		a.hub.wakeAll()
	}
}
