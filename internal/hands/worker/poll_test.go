package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/internal/hands/worker"
)

// silent takes requests and answers none.
type silent struct{ requests atomic.Int64 }

func (s *silent) RoundTrip(r *http.Request) (*http.Response, error) {
	s.requests.Add(1)
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
}

// TestSilentServer polls a server, or what is before it, that takes polls and never
// answers: it is asked again.
func TestSilentServer(t *testing.T) {
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		server := &silent{}
		w, err := worker.New(worker.Config{
			BaseURL: "http://silent.example", EnvironmentID: "env_1", EnvironmentKey: "key", StateDir: state,
			OnWork: &worker.Script{Path: "/bin/true"}, HTTPClient: &http.Client{Transport: server}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := w.Run(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n := server.requests.Load(); n < 4 {
			t.Errorf("it was asked %d times in ten minutes", n)
		}
	})
}
