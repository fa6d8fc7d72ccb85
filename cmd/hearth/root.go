package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hearth/api"
)

const rootHelp = `Hearth runs agents with the brain and the hands apart.

The brain (hearth serve) keeps agents, sessions and their event logs, calls the
model and offers one work queue per environment. The hands (hearth worker) run
inside your perimeter: they claim a session over outbound HTTPS, open a sandbox
for it, run its tool calls there and post the results back.

Try it:
  hearth demo                       a real job, end to end, on a temporary directory
  hearth dev                        brain and hands in one process, to develop against
  hearth run '$ uname -a'           start a session and follow it

Every flag can be given in the environment instead: --database-url is
HEARTH_DATABASE_URL. A flag on the command line wins. Secrets are read from the
environment or from files only, so that they never show in a list of processes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the session waits for an answer.`

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "hearth",
		Short:         "Agents with the brain and the hands apart",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagsFromEnvironment(cmd.Flags())
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w (see %s --help)", err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start here:"},
		&cobra.Group{ID: "daemon", Title: "Run Hearth:"},
		&cobra.Group{ID: "resource", Title: "Operate it:"},
	)
	root.AddCommand(
		newDemo(), newDev(), newRun(), newBench(),
		newServe(), newWorker(),
		newAgents(), newEnvironments(), newKeys(), newSessions(),
		newVersion(),
	)
	return root
}

// flagsFromEnvironment sets each flag that the command line left alone from
// HEARTH_<NAME>, dashes turned to underscores.
func flagsFromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "HEARTH_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if f.Changed || !ok || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	return nil
}

// logFlags are those of every command that runs for long.
type logFlags struct{ level, format string }

func (l *logFlags) register(flags *pflag.FlagSet, level string) {
	flags.StringVar(&l.level, "log-level", level, "what to log: debug, info, warn or error")
	flags.StringVar(&l.format, "log-format", "text", "how to log: text or json")
}

func (l *logFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usageError("--log-level: %q is not one of debug, info, warn, error", l.level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, usageError("--log-format: %q is not one of text, json", l.format)
}

// describe turns an error of the API into its message, as the server wrote it.
func describe(err error) string {
	var wire *anthropic.Error
	if !errors.As(err, &wire) {
		return err.Error()
	}
	var body api.ErrorEnvelope
	if json.Unmarshal([]byte(wire.RawJSON()), &body) != nil || body.Error == nil {
		return err.Error()
	}
	return fmt.Sprintf("the server answered %d %s: %s (request %s)", wire.StatusCode, body.Error.Type, body.Error.Message, body.RequestID)
}
