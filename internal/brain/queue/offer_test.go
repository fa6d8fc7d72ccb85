package queue

import (
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// pauses are those before each new offer in a row, the cap being maxOffers.
var pauses = [maxOffers]time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second}

func TestFruitlessActivationsAreOfferedAgainWithGrowingPausesUpToTheCap(t *testing.T) {
	ends := map[string]func(t *testing.T, b *bench, w *api.Work){
		"stopped": func(t *testing.T, b *bench, w *api.Work) {
			if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
				t.Fatal(err)
			}
		},
		"lapsed": func(t *testing.T, b *bench, w *api.Work) {
			b.ack(t, w)
			b.clock.advance(time.Minute)
			b.sweep(t)
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, b *bench) {
				id := b.offer(t, "", false)
				b.needs.set(id, true)
				end(t, b, b.poll(t, PollParams{}))
				for i, pause := range pauses {
					if pause > 0 {
						b.clock.advance(pause - time.Millisecond)
						if w := b.poll(t, PollParams{}); w != nil {
							t.Fatalf("offer %d came before its pause of %v was over", i+1, pause)
						}
						b.clock.advance(time.Millisecond)
					}
					w := b.poll(t, PollParams{})
					if w == nil || w.Data.ID != id {
						t.Fatalf("offer %d after %v: %+v", i+1, pause, w)
					}
					end(t, b, w)
				}
				b.clock.advance(time.Hour)
				if w := b.poll(t, PollParams{}); w != nil || b.needs.givenUpOn(id) != 1 {
					t.Errorf("after the cap: %+v, given up %d times", w, b.needs.givenUpOn(id))
				}
				b.offer(t, id, true)
				if w := b.poll(t, PollParams{}); w == nil {
					t.Error("a session that made progress is not offered again")
				}
			})
		})
	}
}

func TestPausesStopGrowing(t *testing.T) {
	for fruitless, want := range map[int]time.Duration{7: 32 * time.Second, 8: time.Minute, 9: time.Minute, 1000: time.Minute} {
		if got := pause(fruitless); got != want {
			t.Errorf("after %d activations the pause is %v, want %v", fruitless, got, want)
		}
	}
}

func TestActivationOfASessionThatNeedsNothingEndsForGood(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, _ := b.leased(t)
		if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
			t.Fatal(err)
		}
		b.clock.advance(time.Hour)
		if again := b.poll(t, PollParams{}); again != nil {
			t.Errorf("offered again: %+v", again)
		}
	})
}

func TestASessionHasOneLiveItemHoweverOftenItIsOffered(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id := b.offer(t, "", false)
		var offering sync.WaitGroup
		for range 8 {
			offering.Go(func() {
				err := b.q.DB.Write(b.ctx, func(tx db.Tx) error { return b.q.Offer(b.ctx, tx, b.env, id, true) })
				if err != nil {
					t.Errorf("offer: %v", err)
				}
			})
		}
		offering.Wait()
		items, _, err := b.q.List(b.ctx, b.env, "", 10)
		if err != nil || len(items) != 1 {
			t.Errorf("%d items, %v", len(items), err)
		}
	})
}
