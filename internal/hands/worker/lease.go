package worker

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"hearth/api"
)

// Why a lease ends before its item does.
var (
	// errLost: another worker may hold the lease; nothing more may be said
	// about the item, not even that it has stopped.
	errLost = errors.New("the lease is lost")
	// errStopped: the server wants the activation to end, and a confirmation.
	errStopped = errors.New("the server has asked for a stop")
	// errRefused: the server does not take this worker's heartbeats.
	errRefused = errors.New("the server refuses the lease")
)

// lease keeps the heartbeat of one item.
type lease struct {
	item Item
	wire *wire
	ttl  atomic.Int64 // as last granted, in nanoseconds
	last atomic.Int64 // when a beat that was answered was made, in nanoseconds since 1970
}

// The bounds of the interval between beats, and the lease assumed before the
// first is granted.
const (
	minBeat  = time.Second
	maxBeat  = 30 * time.Second
	firstTTL = time.Minute
)

func newLease(item Item, wire *wire) *lease {
	l := &lease{item: item, wire: wire}
	l.ttl.Store(int64(firstTTL))
	l.last.Store(time.Now().UnixNano())
	return l
}

// lasts is how long the lease holds without a beat.
func (l *lease) lasts() time.Duration { return time.Duration(l.ttl.Load()) }

// lapsed tells whether the lease has run out, so that another may hold it.
func (l *lease) lapsed() bool { return time.Since(time.Unix(0, l.last.Load())) >= l.lasts() }

// keep beats until ctx ends, which is no error, or the lease does. The first
// beat, at once, takes it.
func (l *lease) keep(ctx context.Context) error {
	expected := l.item.LastHeartbeat
	if expected == "" {
		expected = api.NoHeartbeat
	}
	for {
		interval := min(max(l.lasts()/2, minBeat), maxBeat)
		began := time.Now()
		beat, err := l.beat(ctx, expected, 0, interval)
		if err == nil {
			l.last.Store(began.UnixNano())
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && (!beat.LeaseExtended || beat.State == api.WorkStopping || beat.State == api.WorkStopped):
			return errStopped
		case err == nil:
			expected = beat.LastHeartbeat
			if beat.TTLSeconds > 0 {
				l.ttl.Store(beat.TTLSeconds * int64(time.Second))
				interval = min(max(l.lasts()/2, minBeat), maxBeat)
			}
		case isStatus(err, http.StatusPreconditionFailed):
			return errors.Join(errLost, err)
		case !transient(err):
			return errors.Join(errRefused, err)
		case l.lapsed():
			return errors.Join(errLost, err)
		default:
			interval = min(interval, minBeat) // soon again: the lease is running out
		}
		if sleep(ctx, max(interval-time.Since(began), 0)) != nil {
			return nil
		}
	}
}

// lastBeat is how long a beat may still take when nobody needs it any more.
const lastBeat = 2 * time.Second

// beat makes one heartbeat, for a lease of the given duration if it is not zero.
func (l *lease) beat(ctx context.Context, expected string, desired, limit time.Duration) (api.Heartbeat, error) {
	// One that is on its way when the lease ends is waited for a little: cut off,
	// it might still arrive, and after the stop.
	sent, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastBeat, cancel) })()
	query := url.Values{"expected_last_heartbeat": {expected}}
	if desired > 0 {
		query.Set("desired_ttl_seconds", strconv.Itoa(int(desired.Seconds())))
	}
	var beat api.Heartbeat
	err := l.wire.do(sent, "POST", workPath(l.item.EnvironmentID, l.item.WorkID)+"/heartbeat", query, nil, &beat)
	return beat, err
}

// never is a time at which nobody has made a heartbeat.
const never = "1970-01-01T00:00:00Z"

// look tells where the item stands without taking or extending its lease, which
// no other request a worker may make does: it makes a heartbeat that cannot
// succeed, and reads the refusal.
func (l *lease) look(ctx context.Context) (api.WorkState, error) {
	beat, err := l.beat(ctx, never, 0, maxBeat)
	var answer *refused
	if !errors.As(err, &answer) || answer.status != http.StatusPreconditionFailed {
		return beat.State, err
	}
	if answer.body.Error == nil {
		return "", nil // somebody holds the lease, or may take it
	}
	current, _ := answer.body.Error.Details["current_state"].(map[string]any)
	if ttl, ok := current["ttl_seconds"].(float64); ok && ttl > 0 {
		l.ttl.Store(int64(ttl * float64(time.Second)))
	}
	state, _ := current["state"].(string)
	return api.WorkState(state), nil
}

// stopTimeout bounds the confirmation that an activation has ended.
const stopTimeout = 10 * time.Second

// stop says that the activation has ended. That it has already is no error.
func (l *lease) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := l.wire.try(ctx, "POST", workPath(l.item.EnvironmentID, l.item.WorkID)+"/stop", nil, map[string]bool{"force": true}, nil)
	if isStatus(err, http.StatusConflict) {
		return nil
	}
	return err
}
