package main

import (
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var environmentColumns = []column[api.Environment]{
	{"ID", func(e api.Environment) string { return e.ID }},
	{"NAME", func(e api.Environment) string { return e.Name }},
	{"TYPE", func(e api.Environment) string { return e.Config.Type }},
	{"CREATED", func(e api.Environment) string { return since(e.CreatedAt) }},
}

func newEnvironments() *cobra.Command {
	cmd := &cobra.Command{Use: "environments", Aliases: []string{"envs"}, Short: "List, show and create environments", GroupID: "resource"}
	cmd.AddCommand(
		newList("environments", "v1/environments", environmentColumns),
		newGet("environment", "v1/environments/", "env_…", environmentColumns),
		newEnvironmentCreate(),
		newEnvironmentStats(),
	)
	return cmd
}

var statsColumns = []column[api.WorkStats]{
	{"QUEUED", func(s api.WorkStats) string { return strconv.FormatInt(s.Depth, 10) }},
	{"PENDING", func(s api.WorkStats) string { return strconv.FormatInt(s.Pending, 10) }},
	{"OLDEST", func(s api.WorkStats) string {
		if s.OldestQueuedAt == nil {
			return "-"
		}
		return since(*s.OldestQueuedAt)
	}},
	{"WORKERS", func(s api.WorkStats) string {
		if s.WorkersPolling == nil {
			return "-"
		}
		return strconv.FormatInt(*s.WorkersPolling, 10)
	}},
}

func newEnvironmentStats() *cobra.Command {
	cmd := newCall("stats ID", "Show an environment's queue", "  hearth environments stats env_…\n  hearth environments stats env_… -o json",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			stats, err := c.WorkStats(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printOne(cmd, out, statsColumns, stats)
		})
	cmd.Long = `Show an environment's queue:

  QUEUED    sessions waiting for a worker to claim them
  PENDING   sessions claimed and not yet acknowledged
  OLDEST    when the one of these that has waited longest was queued
  WORKERS   workers that have asked for work in the last 30 seconds; one that
            serves as many sessions as it may does not ask`
	return cmd
}

func newEnvironmentCreate() *cobra.Command {
	var (
		to   endpoint
		out  output
		kind string
	)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an environment",
		Long: `Create an environment: the queue that workers serve.

A self_hosted environment is served by your own workers (hearth worker), a
cloud environment by those built into the server (hearth serve --hands).`,
		Example: "  hearth environments create site-a\n  hearth environments create built-in --type cloud",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := to.connect()
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0], "config": map[string]any{"type": kind}}
			var environment api.Environment
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/environments", body, &environment); err != nil {
				return err
			}
			return printOne(cmd, out, environmentColumns, environment)
		},
	}
	to.register(cmd.Flags())
	out.register(cmd.Flags())
	kind = api.EnvironmentSelfHosted
	oneOf(cmd.Flags(), &kind, "type", "", "self_hosted or cloud", api.EnvironmentSelfHosted, api.EnvironmentCloud)
	return cmd
}
