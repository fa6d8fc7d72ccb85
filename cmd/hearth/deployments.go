package main

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var deploymentColumns = []column[api.Deployment]{
	{"ID", func(d api.Deployment) string { return d.ID }},
	{"NAME", func(d api.Deployment) string { return d.Name }},
	{"SCHEDULE", func(d api.Deployment) string {
		if d.Schedule == nil {
			return "-"
		}
		return d.Schedule.Expression + " " + d.Schedule.Timezone
	}},
	{"STATUS", deploymentStatus},
	{"NEXT", func(d api.Deployment) string {
		if d.Schedule == nil || len(d.Schedule.UpcomingRunsAt) == 0 || d.Status == api.DeploymentPaused {
			return "-"
		}
		return d.Schedule.UpcomingRunsAt[0].Format(time.RFC3339)
	}},
}

func deploymentStatus(d api.Deployment) string {
	switch {
	case d.ArchivedAt != nil:
		return "archived"
	case d.PausedReason != nil && d.PausedReason.Error != nil:
		return "paused: " + d.PausedReason.Error.Type
	}
	return d.Status
}

var runColumns = []column[api.DeploymentRun]{
	{"ID", func(r api.DeploymentRun) string { return r.ID }},
	{"DEPLOYMENT", func(r api.DeploymentRun) string { return r.DeploymentID }},
	{"TRIGGER", func(r api.DeploymentRun) string { return r.TriggerContext.Type }},
	{"CREATED", func(r api.DeploymentRun) string { return since(r.CreatedAt) }},
	{"SESSION", func(r api.DeploymentRun) string { return orDash(deref(r.SessionID)) }},
	{"ERROR", func(r api.DeploymentRun) string {
		if r.Error == nil {
			return "-"
		}
		return r.Error.Type + ": " + r.Error.Message
	}},
}

func newDeployments() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deployments",
		Short: "Run agents on schedules",
		Long: `A deployment is an agent with all it needs to run on its own: an environment, the
first messages and, if it is to run by itself, a schedule in cron. Every run
starts a session.`,
		GroupID: "resource",
	}
	cmd.AddCommand(
		newList("deployments", "v1/deployments", deploymentColumns), newGet("deployment", "v1/deployments/", "depl_…", deploymentColumns), newDeploymentCreate(),
		newDeploymentChange("pause", "Stop the schedule of a deployment"),
		newDeploymentChange("unpause", "Have the schedule of a deployment go on; what it missed stays missed"),
		newDeploymentChange("archive", "End a deployment for good"),
		newDeploymentRun(), newDeploymentRuns(),
	)
	return cmd
}

func newDeploymentCreate() *cobra.Command {
	var agent, environment, message, schedule, zone, file string
	cmd := newCall("create NAME", "Create a deployment",
		"  hearth deployments create nightly --agent agent_… --environment env_… --message 'Check the backups.' --cron '0 3 * * *' --timezone Europe/Paris\n  hearth deployments create nightly --file deployment.json",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			body := map[string]any{}
			if file != "" {
				raw, err := os.ReadFile(file)
				if err != nil {
					return usageError("--file: %w", err)
				}
				if err := json.Unmarshal(raw, &body); err != nil {
					return usageError("--file: %s is not a JSON object: %w", file, err)
				}
			}
			body["name"] = args[0]
			for field, value := range map[string]string{"agent": agent, "environment_id": environment} {
				if value != "" {
					body[field] = value
				}
			}
			if message != "" {
				body["initial_events"] = []any{map[string]any{"type": "user.message", "content": []api.Block{api.TextBlock(message)}}}
			}
			if schedule != "" {
				body["schedule"] = map[string]any{"type": "cron", "expression": schedule, "timezone": cmp.Or(zone, "UTC")}
			}
			var made api.Deployment
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/deployments", body, &made); err != nil {
				return err
			}
			return printOne(cmd, out, deploymentColumns, made)
		})
	cmd.Flags().StringVar(&agent, "agent", "", "the agent, at its latest version")
	cmd.Flags().StringVar(&environment, "environment", "", "where its sessions act")
	cmd.Flags().StringVar(&message, "message", "", "what each session is told first")
	cmd.Flags().StringVar(&schedule, "cron", "", "when to run: minute, hour, day of month, month, day of week (default: only when asked to)")
	cmd.Flags().StringVar(&zone, "timezone", "", "whose clocks the schedule means, Europe/Paris say (default: UTC)")
	cmd.Flags().StringVar(&file, "file", "", "file with the request body as JSON, for all that has no flag")
	return cmd
}

func newDeploymentChange(verb, short string) *cobra.Command {
	return newCall(verb+" ID", short, "  hearth deployments "+verb+" depl_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var d api.Deployment
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/deployments/"+url.PathEscape(args[0])+"/"+verb, nil, &d); err != nil {
				return err
			}
			return printOne(cmd, out, deploymentColumns, d)
		})
}

func newDeploymentRun() *cobra.Command {
	return newCall("run ID", "Run a deployment now, even one that is paused", "  hearth deployments run depl_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var r api.DeploymentRun
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/deployments/"+url.PathEscape(args[0])+"/run", nil, &r); err != nil {
				return err
			}
			return printOne(cmd, out, runColumns, r)
		})
}

func newDeploymentRuns() *cobra.Command {
	var (
		limit      int
		deployment string
		failed     bool
	)
	cmd := newCall("runs", "List runs, newest first", "  hearth deployments runs\n  hearth deployments runs --deployment depl_… --failed",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			query := url.Values{}
			if deployment != "" {
				query.Set("deployment_id", deployment)
			}
			if failed {
				query.Set("has_error", "true")
			}
			runs, err := listAll[api.DeploymentRun](cmd, c, "v1/deployment_runs", query, limit)
			if err != nil {
				return err
			}
			return printAll(cmd, out, runColumns, runs)
		})
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most this many (0: all)")
	cmd.Flags().StringVar(&deployment, "deployment", "", "list those of one deployment")
	cmd.Flags().BoolVar(&failed, "failed", false, "list those that have no session")
	return cmd
}
