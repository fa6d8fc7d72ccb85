package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var sessionColumns = []column[api.Session]{
	{"ID", func(s api.Session) string { return s.ID }},
	{"STATUS", func(s api.Session) string { return string(s.Status) }},
	{"AGENT", func(s api.Session) string { return s.Agent.Name }},
	{"TITLE", func(s api.Session) string { return orDash(deref(s.Title)) }},
	{"COST", func(s api.Session) string { return orDash(dollars(s.Usage.ListCost.Amount)) }},
	{"CREATED", func(s api.Session) string { return since(s.CreatedAt) }},
}

func newSessions() *cobra.Command {
	cmd := &cobra.Command{Use: "sessions", Short: "List, show, create, follow and end sessions", GroupID: "resource"}
	cmd.AddCommand(
		newList("sessions", "v1/sessions", sessionColumns),
		newGet("session", "v1/sessions/", "sesn_…", sessionColumns),
		newSessionCreate(),
		newSessionEvents(),
		newThreads(),
		newSessionConfirm(),
		newSessionInterrupt(),
		newSessionBudget(),
		newSessionEnd("archive", "Terminate a session and keep it readable", http.MethodPost, "/archive"),
		newSessionEnd("delete", "Delete a session and its events for good", http.MethodDelete, ""),
	)
	return cmd
}

func newSessionCreate() *cobra.Command {
	var (
		to                        endpoint
		out                       output
		agent, environment, title string
		budget                    string
		resources                 mounts
		vaults                    []string
	)
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an idle session (hearth run creates and starts one)",
		Example: `  hearth sessions create --agent agent_… --environment env_… --title 'look around'
  hearth sessions create --mount file_…=/workspace/in.csv --repository https://git.example.com/team/tool#main`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, info, err := to.connect()
			if err != nil {
				return err
			}
			body := map[string]any{"agent": firstOf(agent, info.AgentID), "environment_id": firstOf(environment, info.EnvironmentID)}
			if title != "" {
				body["title"] = title
			}
			if err := addBudget(body, budget); err != nil {
				return err
			}
			if list := resources.list(); len(list) > 0 {
				body["resources"] = list
			}
			if len(vaults) > 0 {
				body["vault_ids"] = vaults
			}
			var session api.Session
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/sessions", body, &session); err != nil {
				return err
			}
			return printOne(cmd, out, sessionColumns, session)
		},
	}
	to.register(cmd.Flags())
	out.register(cmd.Flags())
	cmd.Flags().StringVar(&agent, "agent", "", "the agent")
	cmd.Flags().StringVar(&environment, "environment", "", "the environment")
	cmd.Flags().StringVar(&title, "title", "", "the title")
	cmd.Flags().StringArrayVar(&vaults, "vault", nil, "a vault with credentials for it; may be repeated, and the first that has one for a server counts")
	registerBudget(cmd.Flags(), &budget)
	cmd.Flags().StringArrayVar(&resources.files, "mount", nil, "a file to mount, FILE or FILE=PATH; may be repeated")
	cmd.Flags().StringArrayVar(&resources.memories, "memory", nil, "a memory store to mount, STORE, or STORE=read_only; may be repeated")
	cmd.Flags().StringArrayVar(&resources.repositories, "repository", nil, "a Git repository to clone, URL, URL#BRANCH or URL#COMMIT, with the token in HEARTH_REPOSITORY_TOKEN if it needs one; may be repeated")
	return cmd
}

// mounts are the resources of a session as they are given on the command line.
type mounts struct{ files, repositories, memories []string }

func (m mounts) list() (list []map[string]any) {
	for _, f := range m.files {
		id, path, ok := strings.Cut(f, "=")
		r := map[string]any{"type": api.ResourceFile, "file_id": id}
		if ok {
			r["mount_path"] = path
		}
		list = append(list, r)
	}
	token := os.Getenv("HEARTH_REPOSITORY_TOKEN")
	for _, memory := range m.memories {
		id, access, ok := strings.Cut(memory, "=")
		r := map[string]any{"type": api.ResourceMemory, "memory_store_id": id}
		if ok {
			r["access"] = access
		}
		list = append(list, r)
	}
	for _, repository := range m.repositories {
		address, revision, ok := strings.Cut(repository, "#")
		r := map[string]any{"type": api.ResourceRepository, "url": address}
		switch {
		case ok && api.IsDigest(revision):
			r["checkout"] = api.Checkout{Type: "commit", SHA: revision}
		case ok:
			r["checkout"] = api.Checkout{Type: "branch", Name: revision}
		}
		if token != "" {
			r["authorization_token"] = token
		}
		list = append(list, r)
	}
	return list
}

func newSessionEvents() *cobra.Command {
	var (
		to     endpoint
		asJSON bool
		live   bool
	)
	cmd := &cobra.Command{
		Use:     "events ID",
		Short:   "Print a session's events, and follow it with --follow",
		Example: "  hearth sessions events sesn_… --follow\n  hearth sessions events sesn_… --json | jq .type",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := to.connect()
			if err != nil {
				return err
			}
			if live {
				return watch(cmd.Context(), c, args[0], "", watcher{out: cmd.OutOrStdout(), in: cmd.InOrStdin(), json: asJSON})
			}
			return printEvents(cmd, c, args[0], asJSON)
		},
	}
	to.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each event as one line of JSON")
	cmd.Flags().BoolVar(&live, "follow", false, "go on until the turn ends")
	return cmd
}

func printEvents(cmd *cobra.Command, c *client.Client, sessionID string, asJSON bool) error {
	lines := newTimeline(cmd.OutOrStdout())
	f := follower{client: c, sessionID: sessionID, seen: map[string]bool{}, visit: func(e observed) error {
		if asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n", shown(cmd.OutOrStdout(), e.raw))
		} else {
			lines.print(e.Event)
		}
		return nil
	}}
	return f.catchUp(cmd.Context())
}

func newSessionConfirm() *cobra.Command {
	var message string
	cmd := newSessionCommand("confirm ID CALL allow|deny", "Answer a call that waits for permission",
		"  hearth sessions confirm sesn_… sevt_… allow\n  hearth sessions confirm sesn_… sevt_… deny --message 'not on a Friday'",
		func(ctx context.Context, c *client.Client, args []string) error {
			return confirm(ctx, c, args[0], args[1], args[2], message)
		})
	cmd.Flags().StringVar(&message, "message", "", "with deny: what to tell the agent")
	return cmd
}

func newSessionInterrupt() *cobra.Command {
	var thread string
	cmd := newSessionCommand("interrupt ID", "Stop what a session is doing", "  hearth sessions interrupt sesn_…\n  hearth sessions interrupt sesn_… --thread sthr_…",
		func(ctx context.Context, c *client.Client, args []string) error {
			return interrupt(ctx, c, args[0], thread)
		})
	cmd.Flags().StringVar(&thread, "thread", "", "stop only this thread")
	return cmd
}

func newSessionEnd(verb, short, method, suffix string) *cobra.Command {
	return newSessionCommand(verb+" ID", short, "  hearth sessions "+verb+" sesn_…", func(ctx context.Context, c *client.Client, args []string) error {
		return c.Do(ctx, method, "v1/sessions/"+url.PathEscape(args[0])+suffix, nil, nil)
	})
}

func newSessionCommand(use, short, example string, run func(context.Context, *client.Client, []string) error) *cobra.Command {
	var to endpoint
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: example,
		Args:    cobra.ExactArgs(len(strings.Fields(use)) - 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := to.connect()
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, args)
		},
	}
	to.register(cmd.Flags())
	return cmd
}
