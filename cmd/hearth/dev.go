package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"hearth/api"
	"hearth/client"
)

const devHelp = `Run the brain and the hands in one process, to develop against.

It keeps everything in --data, makes an agent and an environment at its first
start, serves them with a built-in worker, and writes DATA/dev.json, by which
hearth run and the other commands find it:

  {"base_url", "api_key", "environment_id", "environment_key", "agent_id"}

Point an official SDK at it with ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY.`

func newDev() *cobra.Command {
	var (
		dev  devConfig
		logs logFlags
	)
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run brain and hands in one process",
		Long:    devHelp,
		GroupID: "start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.logger()
			if err != nil {
				return err
			}
			dev.brain.log = log
			return dev.run(cmd.Context(), func(ctx context.Context, info devInfo) error {
				fmt.Fprintf(cmd.OutOrStdout(), `hearth dev is ready (Ctrl-C ends it)

  try:     hearth run '$ uname -a'
  or your own client:
           export ANTHROPIC_BASE_URL=%s ANTHROPIC_API_KEY=%s
  agent %s, environment %s
`, info.BaseURL, info.APIKey, info.AgentID, info.EnvironmentID)
				<-ctx.Done()
				return nil
			})
		},
	}
	dev.brain.register(cmd.Flags())
	logs.register(cmd.Flags(), "warn")
	registerEngine(cmd.Flags(), &dev.engine)
	return cmd
}

// devConfig is a brain and hands in one process.
type devConfig struct {
	brain  brainConfig
	engine string
}

// run starts both halves, calls use once they are ready, and stops them when
// use returns or ctx ends.
func (d devConfig) run(ctx context.Context, use func(context.Context, devInfo) error) error {
	// The engine comes first: where it cannot work, nothing should be made.
	hands, err := d.hands(ctx)
	if err != nil {
		return err
	}
	b, err := openBrain(ctx, d.brain)
	if err != nil {
		return err
	}
	defer b.close()
	key, err := b.operatorKey(ctx)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", d.brain.listen)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.runWithHands(ctx, listener, hands) })
	group.Go(func() error {
		defer stop()
		info, err := d.furnish(ctx, devInfo{BaseURL: baseURL(listener), APIKey: key})
		if err != nil {
			return err
		}
		path := filepath.Join(d.brain.data, "dev.json")
		if err := writePrivate(path, info); err != nil {
			return err
		}
		defer os.Remove(path)
		return use(ctx, info)
	})
	return group.Wait()
}
