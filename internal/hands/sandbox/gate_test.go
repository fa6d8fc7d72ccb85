package sandbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestGate has more come to a gate than it lets in.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2, 10*time.Second)
		enter := func() (leave func(), waited time.Duration) {
			t.Helper()
			began := time.Now()
			leave, err := g.enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return leave, time.Since(began)
		}
		first, _ := enter()
		stuck, waited := enter()
		if waited != 0 {
			t.Errorf("the second of two waited %v", waited)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.enter(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third was let in: %v", err)
		}
		time.AfterFunc(time.Second, first)
		third, waited := enter()
		if waited != time.Second {
			t.Errorf("it waited %v for one that left after a second", waited)
		}
		fourth, waited := enter()
		if waited != 8*time.Second {
			t.Errorf("it waited %v for one that never leaves", waited)
		}
		stuck() // has no place to leave any more
		time.AfterFunc(time.Second, third)
		if _, waited := enter(); waited != time.Second {
			t.Errorf("it waited %v: somebody has left twice", waited)
		}
		fourth()
	})
}
