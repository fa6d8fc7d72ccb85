package main

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

const serveHelp = `Serve the brain: the Managed Agents API, the session logs, one work queue per
environment and the agent loop.

Everything is kept in --data (SQLite), or in Postgres with --database-url; on
Postgres, any number of servers may share one database behind a load balancer.

The API key is HEARTH_API_KEY, or one made at the first start and kept in
DATA/api-key; it makes further keys and workspaces (hearth keys api, hearth
workspaces). The model's key is HEARTH_MODEL_API_KEY; with it, /v1/messages and
/v1/models are passed on to the model's provider. With --oidc-issuer, people sign
on with tokens of an OpenID provider.

A self_hosted environment waits for your workers (hearth worker). With --hands,
this server also serves cloud environments, with workers of its own.

SIGTERM stops taking requests, ends streams, hands sessions that are thinking to
whoever takes over, and exits.`

func newServe() *cobra.Command {
	var (
		cfg     brainConfig
		logs    logFlags
		hands   bool
		builtIn handsConfig
	)
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run the brain",
		Long:    serveHelp,
		GroupID: "daemon",
		Example: `  hearth serve --listen 0.0.0.0:8400 --data /var/lib/hearth
  HEARTH_DATABASE_URL=postgres://… hearth serve --listen 0.0.0.0:8400`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.log = logs.logger()
			return serve(cmd.Context(), cfg, hands, builtIn)
		},
	}
	cfg.register(cmd.Flags())
	logs.register(cmd.Flags(), "info")
	cmd.Flags().BoolVar(&hands, "hands", false, "serve cloud environments with built-in workers")
	builtIn.register(cmd.Flags())
	return cmd
}

// serveInfo is what hearth serve announces.
type serveInfo struct {
	BaseURL string `json:"base_url"`
	APIKey  string `json:"api_key"`
	PID     int    `json:"pid"`
}

func serve(ctx context.Context, cfg brainConfig, hands bool, builtIn handsConfig) error {
	builtIn.stateDir, builtIn.log = filepath.Join(cfg.data, "worker"), cfg.log
	if err := cfg.check(); err != nil {
		return err
	}
	if hands {
		if err := builtIn.prepare(); err != nil {
			return err
		}
		engine, err := builtIn.newEngine(ctx)
		if err != nil {
			return err
		}
		builtIn.engine, builtIn.untried = engine.Name(), true // not again for each environment
	}
	b, err := openBrain(ctx, cfg)
	if err != nil {
		return err
	}
	defer b.close()
	key, err := b.operatorKey(ctx)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return err
	}
	info := serveInfo{BaseURL: baseURL(listener), APIKey: key, PID: os.Getpid()}
	path := filepath.Join(cfg.data, serveFile)
	if err := announce(path, info); err != nil {
		return err
	}
	defer os.Remove(path)
	cfg.log.Info("serving", "address", listener.Addr().String(), "model", b.modelName, "version", version())
	if !hands {
		return b.run(ctx, listener)
	}
	return b.runWithHands(ctx, listener, func(ctx context.Context) error { return b.serveCloud(ctx, info.BaseURL, builtIn) })
}
