package hand

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestStoppedHand: a hand that has said it is ready, and then neither reads nor
// answers, holds nobody.
func TestStoppedHand(t *testing.T) {
	for name, call := range map[string]struct {
		patience time.Duration // of the caller
		want     error
	}{
		"the call takes too long": {time.Hour, ErrGone}, "the call is given up": {time.Millisecond, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fromHand, says := io.Pipe()
				hears, toHand := io.Pipe()
				go func() { _ = (&frameWriter{w: says}).write(frame{Kind: frameReady}) }() // Connect would miss it
				client, err := Connect(t.Context(), fromHand, toHand)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), call.patience)
				defer cancel()
				if _, err := client.Call(ctx, Call{ID: "a", Tool: "bash", Timeout: time.Second}); !errors.Is(err, call.want) {
					t.Errorf("the call ends with %v", err)
				}
				hears.Close()
				says.Close()
			})
		})
	}
}
