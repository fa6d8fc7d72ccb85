package queue

import (
	"errors"
	"sync"
	"testing"
	"time"

	"hearth/api"
)

func TestHeartbeatIsCompareAndSet(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		b.offer(t, "", false)
		w := b.poll(t, PollParams{})
		_, err := b.beat(w.ID, api.NoHeartbeat, 0)
		want412(t, "before the acknowledgement", err, api.WorkQueued, nil)
		b.ack(t, w)
		_, err = b.beat(w.ID, "2026-01-01T00:00:00.000000Z", 0)
		want412(t, "with a heartbeat that never was", err, api.WorkStarting, nil)
		first := b.mustBeat(t, w.ID, api.NoHeartbeat)
		if !first.LeaseExtended || first.State != api.WorkActive || first.TTLSeconds != 60 {
			t.Errorf("the beat that takes the lease: %+v", first)
		}
		_, err = b.beat(w.ID, api.NoHeartbeat, 0)
		want412(t, "a second worker's first beat", err, api.WorkActive, first.LastHeartbeat)
		// The clock stands still, and still no two beats are alike.
		second := b.mustBeat(t, w.ID, first.LastHeartbeat)
		if second.LastHeartbeat <= first.LastHeartbeat {
			t.Errorf("beat %s follows %s", second.LastHeartbeat, first.LastHeartbeat)
		}
		_, err = b.beat(w.ID, first.LastHeartbeat, 0)
		want412(t, "with the beat before the last", err, api.WorkActive, second.LastHeartbeat)
	})
}

// want412 wants the refusal that official workers expect, with the current
// state in its details.
func want412(t *testing.T, what string, err error, state api.WorkState, last any) {
	t.Helper()
	wantStatus(t, what, err, 412)
	var e *api.Error
	if !errors.As(err, &e) {
		return
	}
	current, _ := e.Details["current_state"].(map[string]any)
	if e.Details["error_code"] != "heartbeat_precondition_failed" || current["state"] != state || current["last_heartbeat"] != last || current["lease_extended"] != false {
		t.Errorf("%s: details %v, want state %s and last heartbeat %v", what, e.Details, state, last)
	}
}

func TestOneOfManyFirstHeartbeatsTakesTheLease(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w := b.acknowledged(t)
		taken := make(chan bool, 8)
		var beating sync.WaitGroup
		for range cap(taken) {
			beating.Go(func() {
				_, err := b.beat(w.ID, api.NoHeartbeat, 0)
				taken <- err == nil
			})
		}
		beating.Wait()
		close(taken)
		n := 0
		for ok := range taken {
			if ok {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d workers took the lease", n)
		}
	})
}

func TestHeartbeatWhoseAnswerWasLostMayBeRepeated(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w := b.acknowledged(t)
		if _, err := b.beat(w.ID, api.NoHeartbeat, 1); err != nil {
			t.Fatal(err)
		}
		b.clock.advance(9 * time.Second)
		again, err := b.beat(w.ID, api.NoHeartbeat, 1)
		if err != nil || !again.LeaseExtended {
			t.Errorf("the same claim's beat again, soon: %+v, %v", again, err)
		}
		_, err = b.beat(w.ID, api.NoHeartbeat, 0)
		wantStatus(t, "without a claim", err, 412)
		b.clock.advance(11 * time.Second)
		_, err = b.beat(w.ID, api.NoHeartbeat, 1)
		wantStatus(t, "the same claim's beat again, late", err, 412)
		if _, err := b.beat(w.ID, again.LastHeartbeat, 1); err != nil {
			t.Errorf("carrying on from the repeated beat: %v", err)
		}
	})
}

func TestLeaseLastsAsLongAsAskedWithinBounds(t *testing.T) {
	for name, c := range map[string]struct {
		ask  time.Duration
		want int64
	}{"as asked": {90 * time.Second, 90}, "too short": {time.Millisecond, 2}, "too long": {time.Hour, 300}, "not asked": {0, 60}} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, b *bench) {
				w := b.acknowledged(t)
				beat, err := b.q.Heartbeat(b.ctx, HeartbeatParams{EnvironmentID: b.env, WorkID: w.ID, DesiredTTL: c.ask})
				if err != nil {
					t.Fatal(err)
				}
				if beat.TTLSeconds != c.want {
					t.Errorf("the lease lasts %d s, want %d", beat.TTLSeconds, c.want)
				}
				b.clock.advance(time.Duration(c.want)*time.Second - time.Microsecond)
				b.sweep(t)
				b.wantState(t, w.ID, api.WorkActive)
				b.clock.advance(time.Microsecond)
				b.sweep(t)
				b.wantState(t, w.ID, api.WorkStopped)
			})
		})
	}
}

func TestLapsedLeaseReturnsTheItemOfASessionThatWaits(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, last := b.leased(t)
		b.needs.set(w.Data.ID, true)
		b.clock.advance(time.Minute)
		b.sweep(t)
		b.wantState(t, w.ID, api.WorkQueued)
		_, err := b.beat(w.ID, last, 1)
		want412(t, "the worker that lost its lease", err, api.WorkQueued, nil)
		again := b.poll(t, PollParams{})
		if again == nil || again.ID != w.ID {
			t.Fatalf("the next poll got %+v, want item %s", again, w.ID)
		}
		b.ack(t, again)
		b.mustBeat(t, again.ID, api.NoHeartbeat)
		_, err = b.beat(w.ID, last, 1)
		wantStatus(t, "the first worker, after another took the lease", err, 412)
	})
}

func TestItemAcknowledgedAndForgottenReturns(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w := b.acknowledged(t)
		b.needs.set(w.Data.ID, true)
		b.clock.advance(time.Minute)
		b.sweep(t)
		if again := b.poll(t, PollParams{}); again == nil || again.ID != w.ID {
			t.Errorf("the next poll got %+v, want item %s", again, w.ID)
		}
	})
}

func TestGracefulStopWaitsForTheWorker(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, last := b.leased(t)
		stopping, err := b.q.Stop(b.ctx, b.env, w.ID, false)
		if err != nil || stopping.State != api.WorkStopping || stopping.StopRequestedAt == nil || stopping.StoppedAt != nil {
			t.Fatalf("stop: %+v, %v", stopping, err)
		}
		if beat := b.mustBeat(t, w.ID, last); beat.LeaseExtended || beat.State != api.WorkStopping {
			t.Errorf("the worker is told %+v", beat)
		}
		stopped, err := b.q.Stop(b.ctx, b.env, w.ID, true)
		if err != nil || stopped.State != api.WorkStopped || stopped.StoppedAt == nil {
			t.Errorf("the worker's own stop: %+v, %v", stopped, err)
		}
		if beat := b.mustBeat(t, w.ID, last); beat.LeaseExtended || beat.State != api.WorkStopped {
			t.Errorf("a beat after the end is answered %+v", beat)
		}
		_, err = b.q.Stop(b.ctx, b.env, w.ID, true)
		wantStatus(t, "a stop of what has stopped", err, 409)
	})
}

func TestGracefulStopThatNobodyConfirmsEndsWithTheLease(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, _ := b.leased(t)
		if _, err := b.q.Stop(b.ctx, b.env, w.ID, false); err != nil {
			t.Fatal(err)
		}
		b.clock.advance(time.Minute)
		b.sweep(t)
		b.wantState(t, w.ID, api.WorkStopped)
	})
}

func TestStopIsAtOnceWhenForcedOrUnleased(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		leased, _ := b.leased(t)
		for what, c := range map[string]struct {
			id    string
			force bool
		}{"forced": {leased.ID, true}, "without a lease": {b.acknowledged(t).ID, false}} {
			w, err := b.q.Stop(b.ctx, b.env, c.id, c.force)
			if err != nil || w.State != api.WorkStopped {
				t.Errorf("%s: %+v, %v", what, w, err)
			}
		}
	})
}

func TestRetiredSessionsWorkerLearnsItFromItsHeartbeat(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, last := b.leased(t)
		b.needs.set(w.Data.ID, true)
		b.retire(t, w.Data.ID)
		if beat := b.mustBeat(t, w.ID, last); beat.LeaseExtended || beat.State != api.WorkStopped {
			t.Errorf("the worker is told %+v", beat)
		}
		if again := b.poll(t, PollParams{}); again != nil {
			t.Errorf("a session that is over was offered: %+v", again)
		}
	})
}
