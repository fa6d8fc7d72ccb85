package webhook

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"hearth/api"
	"hearth/internal/brain/outbound"
	"hearth/internal/db"
)

const (
	// concurrency is how many deliveries a server makes at once, and perEndpoint
	// how many of them to one endpoint, so that a slow one holds up no other.
	concurrency = 32
	perEndpoint = 8
	// claimRetry is when claiming is tried again after the database has failed.
	claimRetry = time.Second
	// lookEvery is how often a server looks for itself, besides being told.
	lookEvery = 30 * time.Second
	// maxAnswer is how much of an answer's body is read, in bytes.
	maxAnswer = 64 << 10
	// giveUpAttempts is how many attempts in a row must have failed, besides the
	// time that must have passed, before an endpoint is disabled.
	giveUpAttempts = 20
	// kept is for how long events and finished deliveries are kept.
	kept = 30 * 24 * time.Hour
	// sweepEvery is how often older ones are removed.
	sweepEvery = time.Hour
)

// claim is a delivery that this server makes now.
type claim struct {
	id, endpointID, eventID, attempts string
	workspaceID                       string // set by load
	lease                             int64
}

// Run delivers until ctx ends. Several servers may do so at once.
func (s *Store) Run(ctx context.Context) error {
	wake, cancel := s.DB.Subscribe(dueTopic)
	defer cancel()
	d := &dispatcher{Store: s, busy: map[string]int{}, freed: make(chan struct{}, 1), slots: make(chan struct{}, concurrency)}
	defer d.running.Wait()
	sweep := time.NewTimer(0)
	defer sweep.Stop()
	for {
		wait, err := d.dispatch(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("could not claim webhook deliveries; trying again", "error", err, "next_try_in", claimRetry)
			wait = claimRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.Log.Error("could not remove old webhook deliveries; trying again later", "error", err)
			}
			sweep.Reset(sweepEvery)
		case <-wake:
		case <-d.freed:
		case <-time.After(wait):
		}
	}
}

// dispatcher makes the deliveries of one server.
type dispatcher struct {
	*Store
	running sync.WaitGroup
	slots   chan struct{}
	freed   chan struct{} // told when a delivery is done

	mu   sync.Mutex
	busy map[string]int // deliveries being made, by endpoint; guarded by mu
}

// full are the endpoints that take no more deliveries now.
func (d *dispatcher) full() []any {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []any
	for id, n := range d.busy {
		if n >= perEndpoint {
			ids = append(ids, id)
		}
	}
	return ids
}

func (d *dispatcher) count(endpointID string, by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[endpointID] += by; d.busy[endpointID] == 0 {
		delete(d.busy, endpointID)
	}
}

// dispatch begins all deliveries that are due and for which there is room, and
// tells how long it is until the next.
func (d *dispatcher) dispatch(ctx context.Context) (wait time.Duration, err error) {
	for {
		select {
		case d.slots <- struct{}{}:
		default:
			return lookEvery, nil // whoever is done tells
		}
		c, next, err := d.claim(ctx, d.full())
		if c == nil {
			<-d.slots
			return next, err
		}
		d.count(c.endpointID, 1)
		d.running.Go(func() {
			d.make(ctx, c)
			d.count(c.endpointID, -1)
			<-d.slots
			select {
			case d.freed <- struct{}{}:
			default: // it has been told already
			}
		})
	}
}

// claim takes the delivery that has been due longest, and makes it due again for
// the case that this server does not live to say how it went.
func (s *Store) claim(ctx context.Context, except []any) (c *claim, next time.Duration, err error) {
	where := "due_at IS NOT NULL"
	if len(except) > 0 {
		where += " AND endpoint_id NOT IN (?" + strings.Repeat(", ?", len(except)-1) + ")"
	}
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		now := s.now()
		c, next = &claim{lease: now.Add(2 * s.Timeout).UnixMicro()}, lookEvery
		args := append([]any{c.lease, c.lease}, except...)
		err := tx.QueryRow(ctx, `UPDATE webhook_deliveries SET due_at = ?, lease = ? WHERE id = (SELECT id FROM webhook_deliveries WHERE `+where+` AND due_at <= ?
			ORDER BY due_at LIMIT 1`+tx.SkipLocked()+`) RETURNING id, endpoint_id, event_id, attempts`, append(args, now.UnixMicro())...).Scan(&c.id, &c.endpointID, &c.eventID, &c.attempts)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		c = nil
		var due sql.NullInt64
		if err := tx.QueryRow(ctx, "SELECT MIN(due_at) FROM webhook_deliveries WHERE "+where, except...).Scan(&due); err != nil {
			return err
		}
		if due.Valid {
			next = min(next, max(time.UnixMicro(due.Int64).Sub(now), time.Millisecond))
		}
		return nil
	})
	if err != nil {
		return nil, claimRetry, fmt.Errorf("claim a webhook delivery: %w", err)
	}
	return c, next, nil
}

// make makes one attempt and keeps how it went. An attempt that a shutdown cuts
// short counts for nothing: it is due again when its lease ends.
func (d *dispatcher) make(ctx context.Context, c *claim) {
	e, secret, body, err := d.load(ctx, c)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return // deleted, and its deliveries with it
	case err == nil && e.State != api.WebhookEnabled:
		err = d.DB.Write(ctx, func(tx db.Tx) error {
			if err := lock(ctx, tx, c.endpointID); err != nil {
				return err
			}
			return d.cancel(ctx, tx, c.endpointID)
		})
	case err == nil:
		attempt, fatal := d.attempt(ctx, e, secret, c.eventID, body)
		if ctx.Err() != nil {
			return
		}
		err = d.record(ctx, c, attempt, fatal)
	}
	if err != nil && ctx.Err() == nil {
		d.Log.Error("could not make or record a webhook delivery; it is made again", "delivery", c.id, "error", err)
	}
}

func (s *Store) load(ctx context.Context, c *claim) (e api.WebhookEndpoint, secret, body string, err error) {
	var sealed string
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		err := tx.QueryRow(ctx, "SELECT workspace_id, secret FROM webhook_endpoints WHERE id = ?", c.endpointID).Scan(&c.workspaceID, &sealed)
		if err == nil {
			e, err = get(ctx, tx, c.workspaceID, c.endpointID, "")
		}
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT json FROM webhook_events WHERE id = ?", c.eventID).Scan(&body)
	})
	if err == nil {
		secret, err = s.Sealer.Open(ctx, c.endpointID, sealed)
	}
	return e, secret, body, err
}

// attempt makes one request. Fatal is why the endpoint must get no other, ""
// if it may.
func (s *Store) attempt(ctx context.Context, e api.WebhookEndpoint, secret, eventID, body string) (a api.WebhookAttempt, fatal string) {
	began := s.now()
	a.At = began.UTC().Truncate(time.Microsecond)
	status, err := s.post(ctx, e, secret, eventID, body, began)
	a.Status, a.Seconds = status, max(0, s.now().Sub(began).Seconds())
	if refused, ok := outbound.Refused(err); ok {
		a.Error = refused.Error()
		return a, "auto-disabled: " + a.Error
	}
	switch {
	case err != nil:
		a.Error = describe(err)
	case status >= 300 && status < 400:
		a.Error = fmt.Sprintf("answered %d, a redirect, which is not followed", status)
		return a, fmt.Sprintf("auto-disabled: the URL answered with a redirect (%d)", status)
	case status < 200 || status >= 300:
		a.Error = fmt.Sprintf("answered %d", status)
	}
	return a, ""
}

// describe says what went wrong without repeating the URL, whose query may be
// meant for the endpoint alone.
func describe(err error) string {
	var request *url.Error
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if errors.As(err, &request) {
		err = request.Err
	}
	text := err.Error()
	return text[:min(len(text), 300)]
}

func (s *Store) post(ctx context.Context, e api.WebhookEndpoint, secret, eventID, body string, at time.Time) (status int, err error) {
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return 0, errors.New("the signing secret is damaged; regenerate it")
	}
	signature, err := signer.Sign(eventID, at, []byte(body))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "hearth-webhooks")
	r.Header.Set(standardwebhooks.HeaderWebhookID, eventID)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	response, err := s.Client.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	// Read, so that the connection can be used again; what it says is of no interest.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	return response.StatusCode, nil
}

// record keeps an attempt: the delivery is done, is tried again, or has failed;
// the endpoint may have failed for too long.
func (s *Store) record(ctx context.Context, c *claim, a api.WebhookAttempt, fatal string) error {
	var attempts []api.WebhookAttempt
	if err := json.Unmarshal([]byte(c.attempts), &attempts); err != nil {
		return fmt.Errorf("decode the attempts of %s: %w", c.id, err)
	}
	attempts = append(attempts, a)
	raw, err := json.Marshal(attempts)
	if err != nil {
		return err
	}
	status := api.DeliveryDelivered
	var due, finished sql.NullInt64
	switch {
	case a.Error == "":
	case len(attempts) < s.Attempts && fatal == "":
		status, due = api.DeliveryPending, sql.NullInt64{Int64: s.now().Add(s.pause(len(attempts))).UnixMicro(), Valid: true}
	default:
		status = api.DeliveryFailed
	}
	if !due.Valid {
		finished = sql.NullInt64{Int64: s.now().UnixMicro(), Valid: true}
	}
	return s.DB.Write(ctx, func(tx db.Tx) error {
		if err := lock(ctx, tx, c.endpointID); err != nil {
			return err
		}
		// One whose lease has ended belongs to another server, and one that was
		// canceled meanwhile stays so, unless it has arrived.
		result, err := tx.Exec(ctx, "UPDATE webhook_deliveries SET status = ?, attempts = ?, due_at = ?, finished_at = ? WHERE id = ? AND lease = ? AND (due_at IS NOT NULL OR ? = ?)",
			status, string(raw), due, finished, c.id, c.lease, status, api.DeliveryDelivered)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return s.health(ctx, tx, c, a, fatal)
	})
}

// lock locks an endpoint. Whoever changes more than one row of an endpoint does
// so first, lest two wait for each other.
func lock(ctx context.Context, tx db.Tx, endpointID string) error {
	var id string
	err := tx.QueryRow(ctx, "SELECT id FROM webhook_endpoints WHERE id = ?"+tx.ForUpdate(), endpointID).Scan(&id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("lock webhook endpoint %s: %w", endpointID, err)
	}
	return nil
}

// pause is how long after the nth attempt the next is made.
func (s *Store) pause(n int) time.Duration {
	d := s.Backoff
	for range n - 1 {
		d = min(4*d, s.MaxBackoff)
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// health counts an endpoint's failures in a row, and disables one that does not
// answer well for too long.
func (s *Store) health(ctx context.Context, tx db.Tx, c *claim, a api.WebhookAttempt, fatal string) error {
	if a.Error == "" {
		return s.forgive(ctx, tx, c.endpointID)
	}
	now := s.now().UnixMicro()
	var since, attempts int64
	err := tx.QueryRow(ctx, `INSERT INTO webhook_failures (endpoint_id, since, attempts) VALUES (?, ?, 1)
		ON CONFLICT (endpoint_id) DO UPDATE SET attempts = webhook_failures.attempts + 1 RETURNING since, attempts`, c.endpointID, now).Scan(&since, &attempts)
	if err != nil {
		return fmt.Errorf("count the failures of %s: %w", c.endpointID, err)
	}
	if fatal == "" && attempts >= giveUpAttempts && now-since >= s.GiveUpAfter.Microseconds() {
		fatal = fmt.Sprintf("auto-disabled: every delivery has failed since %s; the last one: %s", time.UnixMicro(since).UTC().Format(time.RFC3339), a.Error)
	}
	if fatal == "" {
		return nil
	}
	e, err := get(ctx, tx, c.workspaceID, c.endpointID, tx.ForUpdate())
	var gone *api.Error
	if errors.As(err, &gone) || err == nil && e.State == api.WebhookDisabled {
		return nil
	}
	if err != nil {
		return err
	}
	e.State, e.DisabledReason = api.WebhookDisabled, fatal
	if err := s.save(ctx, tx, &e); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.Log.Warn("disabled a webhook endpoint", "endpoint", c.endpointID, "reason", fatal) })
	return s.turned(ctx, tx, e)
}

// sweep removes what is old and done.
func (s *Store) sweep(ctx context.Context) error {
	old := s.now().Add(-kept).UnixMicro()
	return s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM webhook_deliveries WHERE created_at < ? AND due_at IS NULL", old); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM webhook_events WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.event_id = webhook_events.id)", old)
		return err
	})
}
