package shell

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
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

// TestKilledWorkers has a server start where others were killed, and one was not.
func TestKilledWorkers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, socketDir), 0o700); err != nil {
		t.Fatal(err)
	}
	socket := func(name string) (string, net.Listener) {
		path := filepath.Join(dir, socketDir, name+socketExt)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		return path, l
	}
	dead, killed := socket("dead")
	killed.Close()
	alive, running := socket("alive")
	defer running.Close()

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- (&Server{StateDir: dir, Sandboxes: none{}, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	run.Eventually(t, "the server listens", func() bool {
		all, err := sockets(dir)
		return err == nil && slices.ContainsFunc(all, func(path string) bool { return path != dead && path != alive })
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left, err := sockets(dir); err != nil || !slices.Equal(left, []string{alive}) {
		t.Errorf("sockets left: %v, %v", left, err)
	}
}

// TestUnreadable is about an operator who may not see which workers there are.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, socketDir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := List(t.Context(), dir); err == nil || !strings.Contains(err.Error(), socketDir) {
		t.Errorf("list says %v", err)
	}
	if _, err := (Terminal{}).Run(t.Context(), dir, Open{Session: "sesn_x"}); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("run says %v", err)
	}
}
