package conformance

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/test/run"
)

// itemVariable makes this test's program the worker of one item.
const itemVariable = "CONFORMANCE_HANDLES_ITEM"

// onWork hands each session to a script that runs the official SDK's worker of
// one item, which knows of it what is in its environment.
func onWork(t *testing.T, s *site, dir string) run.Program {
	script := filepath.Join(t.TempDir(), "on-work.sh")
	text := "#!/bin/sh\nmkdir -p \"$ANTHROPIC_SESSION_ID\" && cd \"$ANTHROPIC_SESSION_ID\" && " + itemVariable + "=1 exec '" + os.Args[0] + "'\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := run.Hearth(t, "worker", "--base-url", s.URL, "--environment-id", s.environmentID, "--on-work", script, "--drain", "2s")
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
	return run.Begin(t, cmd)
}

func handleItem() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	idle := maxIdle
	w := environments.NewEnvironmentWorker(
		anthropic.NewClient(option.WithBaseURL(os.Getenv("ANTHROPIC_BASE_URL"))),
		environments.EnvironmentWorkerOptions{Workdir: ".", MaxIdle: &idle})
	if err := w.HandleItem(ctx, environments.HandleItemOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
