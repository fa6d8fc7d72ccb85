package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

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
		Example: `  hearth dev
  hearth dev --listen 127.0.0.1:0 --data /tmp/try     # any free port; see /tmp/try/dev.json
  HEARTH_MODEL_API_KEY=… hearth dev                   # think with a real model`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dev.brain.log = logs.logger()
			if err := dev.brain.check(); err != nil {
				return err
			}
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
	dev.hands.register(cmd.Flags())
	return cmd
}

// devConfig is a brain and hands in one process.
type devConfig struct {
	brain brainConfig
	hands handsConfig
}

// run starts both halves, calls use once they are ready, and stops them when
// use returns or ctx ends.
func (d devConfig) run(ctx context.Context, use func(context.Context, devInfo) error) error {
	d.hands.stateDir, d.hands.log = filepath.Join(d.brain.data, "worker"), d.brain.log
	// The engine comes first: where it cannot work, nothing should be made.
	if err := d.hands.prepare(); err != nil {
		return err
	}
	engine, err := d.hands.newEngine(ctx)
	if err != nil {
		return err
	}
	d.hands.engine, d.hands.untried = engine.Name(), true // not again by each worker
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
	info := devInfo{BaseURL: baseURL(listener), APIKey: key}
	return b.runWithHands(ctx, listener, func(ctx context.Context) error { return d.serveAndUse(ctx, b, info, use) })
}

// serveAndUse runs the workers, and use once they are there.
func (d devConfig) serveAndUse(ctx context.Context, b *brain, info devInfo, use func(context.Context, devInfo) error) error {
	info, err := d.furnish(ctx, info)
	if err != nil {
		return err
	}
	w, err := d.hands.open(ctx, target{baseURL: info.BaseURL, environmentID: info.EnvironmentID, key: info.EnvironmentKey})
	if err != nil {
		return err
	}
	defer w.Close()
	path := filepath.Join(d.brain.data, devFile)
	if err := announce(path, info); err != nil {
		return err
	}
	defer os.Remove(path)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx) })
	group.Go(func() error { return b.serveCloud(ctx, info.BaseURL, d.hands) })
	group.Go(func() error {
		defer stop()
		return use(ctx, info)
	})
	return group.Wait()
}

// The names of what hearth dev makes at its first start.
const (
	devName = "dev"
	keyFile = "environment-key"
)

// furnish finds or makes the agent, the environment and its key.
func (d devConfig) furnish(ctx context.Context, info devInfo) (devInfo, error) {
	c := client.New(info.BaseURL, info.APIKey)
	var environments api.Page[api.Environment]
	if err := c.Do(ctx, http.MethodGet, "v1/environments?limit=100", nil, &environments); err != nil {
		return info, err
	}
	for _, e := range environments.Data {
		if e.Name == devName {
			info.EnvironmentID = e.ID
		}
	}
	if info.EnvironmentID == "" {
		var made api.Environment
		body := map[string]any{"name": devName, "config": map[string]string{"type": api.EnvironmentSelfHosted}}
		if err := c.Do(ctx, http.MethodPost, "v1/environments", body, &made); err != nil {
			return info, err
		}
		info.EnvironmentID = made.ID
	}
	var agents api.Page[api.Agent]
	if err := c.Do(ctx, http.MethodGet, "v1/agents?limit=100", nil, &agents); err != nil {
		return info, err
	}
	for _, a := range agents.Data {
		if a.Name == devName {
			info.AgentID = a.ID
		}
	}
	if info.AgentID == "" {
		var made api.Agent
		body := map[string]any{"name": devName, "model": d.model(), "tools": []api.Tool{{Type: api.ToolTypeAgentToolset}}}
		if err := c.Do(ctx, http.MethodPost, "v1/agents", body, &made); err != nil {
			return info, err
		}
		info.AgentID = made.ID
	}
	key, err := d.environmentKey(ctx, c, info.BaseURL, info.EnvironmentID)
	info.EnvironmentKey = key
	return info, err
}

// environmentKey is the key kept from an earlier start, or a new one.
func (d devConfig) environmentKey(ctx context.Context, c *client.Client, baseURL, environmentID string) (string, error) {
	path := filepath.Join(d.brain.data, keyFile)
	if kept, err := readSecretFile(path); err == nil && opens(ctx, baseURL, kept, environmentID) {
		return kept, nil
	}
	key, err := c.CreateKey(ctx, environmentID, client.KeyParams{Name: devName})
	if err != nil {
		return "", err
	}
	return key.Key, writePrivate(path, key.Key)
}

// opens tells whether a kept key still serves the environment: it may have been
// revoked since, or made for another database.
func opens(ctx context.Context, baseURL, key, environmentID string) bool {
	_, err := client.New(baseURL, key).WorkStats(ctx, environmentID)
	return err == nil
}

// model is the model of the agent hearth dev makes.
func (d devConfig) model() string {
	if d.brain.thinksWith() == modelAnthropic {
		return "claude-sonnet-5"
	}
	return modelRehearsal
}
