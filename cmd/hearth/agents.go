package main

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var agentColumns = []column[api.Agent]{
	{"ID", func(a api.Agent) string { return a.ID }},
	{"NAME", func(a api.Agent) string { return a.Name }},
	{"VERSION", func(a api.Agent) string { return strconv.FormatInt(a.Version, 10) }},
	{"MODEL", func(a api.Agent) string { return a.Model.ID }},
	{"UPDATED", func(a api.Agent) string { return since(a.UpdatedAt) }},
}

func newAgents() *cobra.Command {
	cmd := &cobra.Command{Use: "agents", Short: "List, show and create agents", GroupID: "resource"}
	cmd.AddCommand(
		newList("agents", "v1/agents", agentColumns),
		newGet("agent", "v1/agents/", "agent_…", agentColumns),
		newAgentCreate(),
	)
	return cmd
}

func newAgentCreate() *cobra.Command {
	var (
		to                  endpoint
		out                 output
		model, system, file string
		skills              []string
		roster              []string
		advisor             string
	)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an agent with the built-in toolset",
		Long: `Create an agent with the built-in toolset (bash, read, write, edit, glob, grep).

With --calls-on it coordinates other agents: each works in a thread of its own,
in the same sandbox (see hearth sessions threads).

For anything more, give the whole request body as JSON with --file; NAME then
overrides the name in it.`,
		Example: `  hearth agents create helper --model claude-sonnet-5
  hearth agents create chief --calls-on agent_… --calls-on self --advisor claude-opus-5
  hearth agents create helper --file agent.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := to.connect()
			if err != nil {
				return err
			}
			body := map[string]any{
				"model": model,
				"tools": []api.Tool{{Type: api.ToolTypeAgentToolset}},
			}
			if file != "" {
				raw, err := os.ReadFile(file)
				if err != nil {
					return usageError("--file: %w", err)
				}
				clear(body)
				if err := json.Unmarshal(raw, &body); err != nil {
					return usageError("--file: %s is not a JSON object: %w", file, err)
				}
			}
			body["name"] = args[0]
			if system != "" {
				body["system"] = system
			}
			if len(skills) > 0 {
				body["skills"] = skillRefs(skills)
			}
			if members := rosterOf(roster, advisor); len(members) > 0 {
				body["multiagent"] = map[string]any{"type": api.MultiagentCoordinator, "agents": members}
			}
			var agent api.Agent
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/agents", body, &agent); err != nil {
				return err
			}
			return printOne(cmd, out, agentColumns, agent)
		},
	}
	to.register(cmd.Flags())
	out.register(cmd.Flags())
	cmd.Flags().StringVar(&model, "model", "rehearsal", "the model to think with")
	cmd.Flags().StringVar(&system, "system", "", "the system prompt")
	cmd.Flags().StringArrayVar(&roster, "calls-on", nil, "an agent it may call on, by id, or self; may be repeated")
	cmd.Flags().StringVar(&advisor, "advisor", "", "a model it may ask for advice")
	cmd.Flags().StringVar(&file, "file", "", "file with the request body as JSON")
	cmd.Flags().StringArrayVar(&skills, "skill", nil, "a skill the agent has, as ID or ID@VERSION; may be repeated")
	return cmd
}

// skillRefs reads skills given as ID or ID@VERSION.
func skillRefs(texts []string) []api.Skill {
	refs := make([]api.Skill, len(texts))
	for i, text := range texts {
		id, version, _ := strings.Cut(text, "@")
		refs[i] = api.Skill{Type: api.SkillSourceCustom, SkillID: id, Version: cmp.Or(version, api.LatestVersion)}
	}
	return refs
}

// rosterOf is the roster of an agent as it is given on the command line.
func rosterOf(agents []string, advisor string) (members []any) {
	for _, id := range agents {
		if id == api.RosterSelf {
			members = append(members, map[string]any{"type": id})
			continue
		}
		members = append(members, id)
	}
	if advisor != "" {
		members = append(members, api.Advisor{Type: api.RosterAdvisor, Model: advisor})
	}
	return members
}

// newList makes the list command of a resource.
func newList[T any](plural, path string, columns []column[T]) *cobra.Command {
	var (
		to       endpoint
		out      output
		limit    int
		archived bool
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List " + plural + ", newest first",
		Example: "  hearth " + plural + " list\n  hearth " + plural + " list --limit 5 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := to.connect()
			if err != nil {
				return err
			}
			query := url.Values{}
			if archived {
				query.Set("include_archived", "true")
			}
			objects, err := listAll[T](cmd, c, path, query, limit)
			if err != nil {
				return err
			}
			return printAll(cmd, out, columns, objects)
		},
	}
	to.register(cmd.Flags())
	out.register(cmd.Flags())
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most this many (0: all)")
	cmd.Flags().BoolVar(&archived, "archived", false, "list archived ones too")
	return cmd
}

// newGet makes the get command of a resource; prefix is its path up to the id.
func newGet[T any](singular, prefix, exampleID string, columns []column[T]) *cobra.Command {
	return newCall("get ID", "Show one "+singular, "  hearth "+singular+"s get "+exampleID+" -o json",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var object T
			if err := c.Do(cmd.Context(), http.MethodGet, prefix+url.PathEscape(args[0]), nil, &object); err != nil {
				return err
			}
			return printOne(cmd, out, columns, object)
		})
}
