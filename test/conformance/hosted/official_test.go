package hosted_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/test/conformance/hosted"
)

// TestOfficialWorker shows that the fake asks nothing of a worker that the
// official one does not do.
func TestOfficialWorker(t *testing.T) {
	t.Parallel()
	exercise(t, launchOfficial)
}

func launchOfficial(t *testing.T, service *hosted.Service) *subject {
	// Version 1.84.0 posts the error of the call it cancels; the service refuses it.
	service.Pardon(hosted.CutCallsSilent)
	workdir, idle := t.TempDir(), maxIdle
	official := environments.NewEnvironmentWorker(
		anthropic.NewClient(option.WithBaseURL(service.URL()), option.WithAPIKey("an-api-key-no-worker-may-send")),
		environments.EnvironmentWorkerOptions{
			EnvironmentID: hosted.EnvironmentID, EnvironmentKey: hosted.EnvironmentKey,
			Workdir: workdir, MaxIdle: &idle, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
	return runWorker(t, official.Run, func(string) string { return workdir })
}

// runWorker runs a worker until the test ends or drains it, and waits for it.
func runWorker(t *testing.T, run func(context.Context) error, workdir func(string) string) *subject {
	ctx, cancel := context.WithCancel(context.Background())
	ended, over := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		ended <- run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-over:
		case <-time.After(patience):
			t.Error("the worker does not end")
		}
	})
	return &subject{workdir: workdir, ended: ended, drain: cancel}
}
