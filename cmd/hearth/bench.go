package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"hearth/internal/bench"
)

const benchHelp = `Measure Hearth on this machine, beside the official Go worker on the same server
in the same run, and print tables in Markdown.

  claim      work offered → claimed, idle worker
  call       tool call in the log → result accepted
  sessions   sessions per second to completion
  events     durable events per second through the API, on SQLite and, with
             HEARTH_DATABASE_URL, on Postgres
  memory     what 1,000 open sessions cost the server
  sandbox    create → first command, ours and those of bwrap, runc, runsc, podman
             and docker, as far as they are installed (and busybox, for their root)
  warm       calls, files and idle memory in sandboxes that are there, ours and
             those of runc and runsc
  park       pausing, putting on disk and bringing back

Everything runs in temporary directories. Leave the machine alone meanwhile.`

func newBench() *cobra.Command {
	cfg := bench.Config{}
	cmd := &cobra.Command{
		Use:       "bench [PART …]",
		Short:     "Measure this machine",
		Long:      benchHelp,
		GroupID:   "start",
		Example:   "  hearth bench claim call\n  hearth bench > figures.md",
		ValidArgs: bench.Parts(),
		Args:      cobra.OnlyValidArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if cfg.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			dir, err := os.MkdirTemp("", "hearth-bench-hand-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := os.Chmod(dir, 0o711); err != nil {
				return err
			}
			if cfg.Hand, err = handFile(dir, slog.Default()); err != nil {
				return err
			}
			if cfg.Hand == "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "this hearth holds no small program for sandboxes, which start slower without: go generate ./cmd/hearth, and build it again")
			}
			cfg.Progress = cmd.ErrOrStderr()
			return bench.Run(cmd.Context(), cfg, args, cmd.OutOrStdout())
		},
	}
	oneOf(cmd.Flags(), &cfg.Engine, "engine", "", "the engine of our worker", engineGVisor, engineNamespace, engineProcess)
	cfg.Engine = engineNamespace
	cmd.Flags().StringVar(&cfg.DatabaseURL, "database-url", "", "an empty Postgres database to measure as well")
	cmd.Flags().Float64Var(&cfg.Scale, "scale", 1, "measure that many times as often")
	cmd.AddCommand(&cobra.Command{
		Use: "official-worker", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.OfficialWorker(cmd.Context()) },
	})
	return cmd
}
