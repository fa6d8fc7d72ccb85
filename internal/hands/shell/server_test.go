package shell

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
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
		lines, _ = dial(t.Context(), dir)
		return len(lines) == 1
	})
	defer lines[0].Close()
	// Another that is answered shows that the first has been accepted.
	asking, err := dial(t.Context(), dir)
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

// TestSilentWorker is about a worker that takes connections and says nothing: whoever
// asks it can still give up.
func TestSilentWorker(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, socketDir), 0o700); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("unix", filepath.Join(dir, socketDir, "silent"+socketExt))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, ask := range map[string]func(context.Context) error{
		"list": func(ctx context.Context) error { _, err := List(ctx, dir); return err },
		"run": func(ctx context.Context) error {
			_, err := Terminal{In: strings.NewReader(""), Out: io.Discard}.Run(ctx, dir, Open{Session: "sesn_x"})
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- ask(ctx) }()
		asked, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s ends with %v", name, err)
		}
		asked.Close()
	}
}
