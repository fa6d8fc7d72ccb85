package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"hearth/api"
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
		newGet("environment", "v1/environments/", environmentColumns),
		newEnvironmentCreate(),
	)
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
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
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
	cmd.Flags().StringVar(&kind, "type", api.EnvironmentSelfHosted, "self_hosted or cloud")
	return cmd
}
