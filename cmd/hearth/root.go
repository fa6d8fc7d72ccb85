package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/spf13/cobra"

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
HEARTH_DATABASE_URL. A flag on the command line wins, and an empty variable
counts as absent. Secrets are read from the environment or from files only, so
that they never show in a list of processes.

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
	root.SetFlagErrorFunc(misused)
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start here:"},
		&cobra.Group{ID: "daemon", Title: "Run Hearth:"},
		&cobra.Group{ID: "resource", Title: "Operate it:"},
	)
	root.AddCommand(
		newDemo(), newDev(), newRun(), newBench(),
		newServe(), newWorker(), newShell(), newDoctor(), newSecrets(),
		newAgents(), newEnvironments(), newKeys(), newWorkspaces(), newLogin(), newSessions(), newFiles(), newMemories(), newSkills(), newImages(), newVaults(), newTunnels(), newPrices(), newWebhooks(), newDeployments(),
		newVersion(),
	)
	strict(root)
	return root
}

// strict makes wrong usage an error with the exit code of one. Left to cobra,
// an unknown command below another is answered with help and success.
func strict(cmd *cobra.Command) {
	for _, below := range cmd.Commands() {
		strict(below)
	}
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		cmd.Args, cmd.SuggestionsMinimumDistance = noSuchCommand, 2
	}
	validate := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := validate(cmd, args); err != nil {
			return misused(cmd, err)
		}
		return nil
	}
}

// misused says that a command was used wrongly, and where it is explained.
func misused(cmd *cobra.Command, err error) error {
	return usageError("%w (see %s --help)", err, cmd.CommandPath())
}

func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return err
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
