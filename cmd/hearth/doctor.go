package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hearth/internal/hands/doctor"
	"hearth/internal/hands/sandbox"
)

const doctorHelp = `Examine this host: would a worker do well on it? Give it the flags you would give
the worker; it reads the same variables too. Limits, --image and --park-store are
not tried out.

  ok        works
  warn      a worker runs, with something less; what, is said
  fail      a worker cannot do its work
  skipped   was not asked for, or what it builds on does not work

Below each warning and failure stands what to do about it. Every engine is
started, runs one command and is removed again, in a directory of its own in or
beside --state; docker only if it is the one asked for. Without --base-url or
--environment-id the server is left out; the environment's key is only looked at
by the server, and claims nothing.

It may run beside a live worker, leaves nothing behind, and ends within half a
minute. The exit code is 1 if anything fails; warnings do not count.`

func newDoctor() *cobra.Command {
	var (
		flags workerFlags
		shape shapeFlags
		out   output
	)
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Examine this host, and say what to mend",
		Long:    doctorHelp,
		GroupID: "daemon",
		Example: `  hearth doctor
  sudo -u worker hearth doctor --state /var/lib/hearth --engine gvisor     # as the worker will run
  hearth doctor --base-url https://brain.example --environment-id env_… --environment-key-file worker.key
  hearth doctor -o json | jq '.checks[] | select(.status == "fail")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(shape.apply(&flags.handsConfig), flags.prepare()); err != nil {
				return err
			}
			cfg := doctor.Config{
				StateDir: flags.stateDir, MaxSessions: flags.maxSessions, Pool: flags.pool,
				EnvironmentID:      firstOf(flags.environmentID, os.Getenv("ANTHROPIC_ENVIRONMENT_ID")),
				EnvironmentKey:     firstOf(os.Getenv("HEARTH_ENVIRONMENT_KEY"), os.Getenv("ANTHROPIC_ENVIRONMENT_KEY")),
				EnvironmentKeyFile: flags.keyFile,
				BaseURL:            firstOf(flags.baseURL, os.Getenv("ANTHROPIC_BASE_URL")),
				Engines:            enginesIn, Wanted: enginesOf(flags.engine),
			}
			if cfg.BaseURL == "" && cfg.EnvironmentID != "" {
				cfg.BaseURL = defaultBaseURL
			}
			if flags.engine == engineNamespace || flags.engine == engineDocker {
				cfg.OnHost = &flags.limits
			}
			if flags.engine == engineDocker { // only then, for it may pull an image
				cfg.Engines = func(stateDir string) []sandbox.Engine {
					return append(enginesIn(stateDir), newDocker(flags.docker, stateDir, "", slog.New(slog.DiscardHandler)))
				}
			}
			report := doctor.Examine(cmd.Context(), cfg)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if err := printReport(cmd.OutOrStdout(), out, report); err != nil {
				return err
			}
			if report.Status == doctor.Fail {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	flags.register(cmd.Flags())
	shape.register(cmd.Flags())
	out.register(cmd.Flags())
	return cmd
}

// enginesIn makes every engine that needs nothing installed, as a worker would, with
// its state below a directory.
func enginesIn(stateDir string) []sandbox.Engine {
	silent := slog.New(slog.DiscardHandler)
	hand, _ := handFile(stateDir, silent) // without, they do as a worker would
	return ownEngines(stateDir, hand, silent)
}

// enginesOf names the engines a worker would choose from, the preferred first.
func enginesOf(flag string) []string {
	if flag == engineAuto {
		return []string{engineGVisor, engineNamespace}
	}
	return []string{flag}
}

func printReport(w io.Writer, out output, report doctor.Report) error {
	if out.format == "json" {
		return printJSON(w, report)
	}
	table, group := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), ""
	for _, f := range report.Findings {
		if f.Group != group {
			group = f.Group
			fmt.Fprintln(table, group)
		}
		fmt.Fprintf(table, "  %-7s\t%s\t%s\n", f.Status, f.Name, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(table, "  \t\t  → %s\n", f.Fix)
		}
	}
	fmt.Fprintf(table, "\n%d ok, %d to warn of, %d failed, %d skipped\n",
		report.Count(doctor.OK), report.Count(doctor.Warn), report.Count(doctor.Fail), report.Count(doctor.Skipped))
	return table.Flush()
}
