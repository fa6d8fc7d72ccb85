package worker

import (
	"context"
	"net/url"
	"time"

	"hearth/api"
)

// lookForOthers is how often a worker without room asks whether somebody waits.
const lookForOthers = time.Second

// room takes a slot as soon as there is one; false if ctx ends before. While others
// wait, sessions that need nothing make room for them, or they would be held up by
// sessions that somebody might come back to.
func (w *Worker) room(ctx context.Context, slots chan struct{}) bool {
	for {
		timer := time.NewTimer(lookForOthers)
		select {
		case slots <- struct{}{}:
			timer.Stop()
			return true
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
		if a := w.sparest(); a != nil && w.othersWait(ctx) {
			select {
			case a.asked <- struct{}{}:
			default: // asked already
			}
		}
	}
}

// sparest is the session that may have been left for longest; nil if there is none.
func (w *Worker) sparest() (longest *activation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a := range w.serving {
		if a.spare.IsZero() || time.Now().Before(a.spare) {
			continue
		}
		if longest == nil || a.spare.Before(longest.spare) {
			longest = a
		}
	}
	return longest
}

// othersWait tells whether there are sessions that nobody has claimed.
func (w *Worker) othersWait(ctx context.Context) bool {
	var stats api.WorkStats
	if err := w.wire.do(ctx, "GET", "/v1/environments/"+url.PathEscape(w.EnvironmentID)+"/work/stats", nil, nil, &stats); err != nil {
		w.Log.Debug("could not look whether others wait", "error", err)
		return false
	}
	return stats.Depth > 0
}

// spareFrom says from when the session may be asked to make room; zero for not now.
func (a *activation) spareFrom(from time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spare = from
}
