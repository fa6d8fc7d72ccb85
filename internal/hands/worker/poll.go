package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"hearth/api"
)

// claims claims items and passes them on until ctx ends: always, or, if there is
// a bell, when it rings. It holds a slot for each item it passes on. It returns
// an error only when the server has refused the worker for good.
func (w *Worker) claims(ctx context.Context, b bell, slots chan struct{}, begin func(Item)) error {
	if b == nil {
		return w.poll(ctx, slots, block, begin)
	}
	again := min(lookAgain, w.Webhook.every)
	for {
		if err := w.poll(ctx, slots, "", begin); err != nil || ctx.Err() != nil {
			return err
		}
		w.Log.Debug("nothing to claim; being quiet", "for", again)
		timer := time.NewTimer(again)
		again = w.Webhook.every
		select {
		case <-b:
			again = min(lookAgain, w.Webhook.every)
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// lookAgain is when a worker that was woken looks a second time: what it was
// woken for may have been kept back for a moment, for the worker that had the
// session before or because the session was just handed back.
const lookAgain = 3 * time.Second

// poll claims items until ctx ends or, when the server is not to block, until
// there are no more.
func (w *Worker) poll(ctx context.Context, slots chan struct{}, block string, begin func(Item)) error {
	failures := 0
	for {
		if !w.room(ctx, slots) {
			return nil
		}
		item, err := w.claim(ctx, block)
		if err == nil && item != nil {
			failures = 0
			begin(*item)
			continue
		}
		<-slots
		switch {
		case ctx.Err() != nil, err == nil && block == "":
			return nil
		case err == nil:
			failures = 0
			continue // the server has waited for us already
		case !transient(err):
			return fmt.Errorf("the server refuses this worker: %w", err)
		}
		failures++
		pause := backoff(failures, time.Second, time.Minute, err)
		w.Log.Warn("could not poll for work", "error", err, "failures", failures, "next_try_in", pause.Round(time.Millisecond))
		if sleep(ctx, pause) != nil {
			return nil
		}
	}
}

// block is how long the server may hold a poll, in milliseconds: the longest
// the API allows.
const block = "999"

// errUnacknowledged says that an item was claimed in vain. It says nothing
// against the worker, so polling goes on after a pause.
var errUnacknowledged = errors.New("the item could not be acknowledged")

// claim polls once and acknowledges what it gets; nil when there is nothing.
func (w *Worker) claim(ctx context.Context, block string) (*Item, error) {
	began := time.Now()
	query := url.Values{}
	if block != "" {
		query.Set("block_ms", block)
	}
	path := "/v1/environments/" + url.PathEscape(w.EnvironmentID) + "/work/poll"
	var polled json.RawMessage
	if err := w.wire.do(ctx, "GET", path, query, nil, &polled); err != nil {
		return nil, err
	}
	var work *api.Work
	if len(polled) > 0 { // an empty answer means the same as null
		if err := json.Unmarshal(polled, &work); err != nil {
			return nil, fmt.Errorf("decode a work item: %w", err)
		}
	}
	w.mu.Lock()
	w.lastPoll = time.Now()
	w.mu.Unlock()
	if work == nil || work.ID == "" {
		// A server that does not hold polls must not be asked without pause.
		if held := time.Since(began); block != "" && held < 100*time.Millisecond {
			return nil, sleep(ctx, 500*time.Millisecond)
		}
		return nil, nil
	}
	item := &Item{WorkID: work.ID, EnvironmentID: work.EnvironmentID, SessionID: work.Data.ID, Kind: work.Data.Type, JSON: polled}
	if work.Secret != nil {
		item.Secret = *work.Secret
	}
	log := w.Log.With("work", item.WorkID, "session", item.SessionID)
	if err := w.wire.try(ctx, "POST", workPath(item.EnvironmentID, item.WorkID)+"/ack", nil, nil, nil); err != nil {
		log.Warn("could not acknowledge a work item; handing it back", "error", err)
		if err := newLease(*item, w.wire).stop(context.WithoutCancel(ctx)); err != nil {
			log.Warn("could not hand a work item back; it will be offered again by itself", "error", err)
		}
		return nil, errUnacknowledged
	}
	log.Info("claimed a session")
	return item, nil
}
