package shell

import (
	"context"
	"log/slog"
	"testing"

	"hearth/internal/hands/hand"
	"hearth/test/run"
)

// none is a worker without sandboxes.
type none struct{}

func (none) Running() []string { return nil }

func (none) Terminal(context.Context, string, hand.Terminal) (*hand.Screen, error) {
	return nil, ErrUnknown
}

// TestSilentOperator ends a server that somebody is connected to who says nothing.
func TestSilentOperator(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- (&Server{StateDir: dir, Sandboxes: none{}, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	var lines []line
	run.Eventually(t, "the server listens", func() bool {
		lines, _ = dial(dir)
		return len(lines) == 1
	})
	defer lines[0].Close()
	// Another that is answered shows that the first has been accepted.
	asking, err := dial(dir)
	if err != nil || len(asking) != 1 {
		t.Fatal(len(asking), err)
	}
	defer asking[0].Close()
	var answer message
	if err := asking[0].out.Encode(message{List: true}); err != nil {
		t.Fatal(err)
	}
	if err := asking[0].in.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	cancel()
	run.Eventually(t, "the server ends", func() bool { return len(ended) == 1 })
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
