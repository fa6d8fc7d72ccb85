// Package queue is the work queue of an environment: items, claims, leases and
// their secrets. It owns the tables work and work_pollers. It knows nothing of
// sessions but their ids; whether one still needs hands it asks a Demand.
package queue

import (
	"context"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// Demand tells whether a session still waits for something only hands can do.
type Demand func(ctx context.Context, tx db.Tx, sessionID string) (bool, error)

// Config tunes a Queue; zero fields take the defaults named.
type Config struct {
	DB *db.DB
	// LeaseTTL is how long a heartbeat keeps a lease. Default 60 s.
	LeaseTTL time.Duration
	// ReclaimAfter is when a claimed, unacknowledged item is offered again if
	// the poller names no time of its own. Default 5 s.
	ReclaimAfter time.Duration
	// TokenGrace is how long a sessions token outlives its lease. Default 60 s.
	TokenGrace time.Duration
	// SigningKey signs sessions tokens; at least 32 bytes.
	SigningKey []byte
	// Demand is asked, in the transaction that ends an activation, whether the
	// session must be offered again.
	Demand Demand
	// MaxOffers is how many activations in a row may end without the session
	// making progress before OnGiveUp is called instead of offering again. Default 20.
	MaxOffers int
	OnGiveUp  func(ctx context.Context, tx db.Tx, sessionID string) error
}

// Queue is every environment's work queue.
type Queue struct{}

// New makes the queue and migrates its tables.
func New(ctx context.Context, cfg Config) (*Queue, error) { panic("stub") }

// Run reclaims lapsed leases and releases delayed offers until ctx ends.
func (q *Queue) Run(ctx context.Context) error { panic("stub") }

// Offer makes sure that the session has a live item (queued, starting or
// active), adding one when it has none. Progress resets the count of fruitless offers.
func (q *Queue) Offer(ctx context.Context, tx db.Tx, environmentID, sessionID string, progress bool) error {
	panic("stub")
}

// Retire stops the session's live items, for a session that is over.
func (q *Queue) Retire(ctx context.Context, tx db.Tx, sessionID string) error { panic("stub") }

// PollParams are those of a poll.
type PollParams struct {
	EnvironmentID string
	WorkerID      string
	Block         time.Duration // zero: answer at once
	ReclaimAfter  time.Duration // zero: the default
}

// Poll claims the oldest item on offer, waiting up to Block for one; nil when
// there is none. The item carries its secret.
func (q *Queue) Poll(ctx context.Context, p PollParams) (*api.Work, error) { panic("stub") }

// Ack acknowledges a claim: queued becomes starting. Repeating it is harmless.
func (q *Queue) Ack(ctx context.Context, environmentID, workID string) (api.Work, error) {
	panic("stub")
}

// HeartbeatParams are those of a heartbeat. Expected is nil when the client named none.
type HeartbeatParams struct {
	EnvironmentID, WorkID string
	Expected              *string
	DesiredTTL            time.Duration
	// Claim is the claim number of the sessions token used, 0 with an environment key.
	Claim int64
}

// Heartbeat takes or extends a lease by compare-and-set. A mismatch is the 412
// the official workers expect, with the current state in its details.
func (q *Queue) Heartbeat(ctx context.Context, p HeartbeatParams) (api.Heartbeat, error) {
	panic("stub")
}

// Stop ends an activation: gracefully (stopping, until the worker confirms) or,
// forced, at once (stopped). It never ends the session.
func (q *Queue) Stop(ctx context.Context, environmentID, workID string, force bool) (api.Work, error) {
	panic("stub")
}

// Get returns an item, without its secret.
func (q *Queue) Get(ctx context.Context, environmentID, workID string) (api.Work, error) {
	panic("stub")
}

// UpdateMetadata merges metadata: a nil value deletes its key.
func (q *Queue) UpdateMetadata(ctx context.Context, environmentID, workID string, patch map[string]*string) (api.Work, error) {
	panic("stub")
}

// List returns a page of items, newest first, and whether more follow. After is
// the id of the last item of the page before, "" for the first.
func (q *Queue) List(ctx context.Context, environmentID, after string, limit int) (items []api.Work, more bool, err error) {
	panic("stub")
}

// Stats describes the queue of an environment.
func (q *Queue) Stats(ctx context.Context, environmentID string) (api.WorkStats, error) {
	panic("stub")
}

// Token is what a valid sessions token stands for.
type Token struct {
	SessionID, EnvironmentID, WorkID string
	Claim                            int64
}

// VerifyToken checks a sessions token: signature, expiry, and that its claim is
// the item's current one and not over by more than the grace.
func (q *Queue) VerifyToken(ctx context.Context, token string) (Token, error) { panic("stub") }

// IsToken tells whether a bearer credential has the form of a sessions token.
func IsToken(credential string) bool { panic("stub") }
