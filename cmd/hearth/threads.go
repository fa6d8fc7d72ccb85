package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var threadColumns = []column[api.Thread]{
	{"ID", func(t api.Thread) string { return t.ID }},
	{"STATUS", func(t api.Thread) string { return string(t.Status) }},
	{"AGENT", threadAgent},
	{"PARENT", func(t api.Thread) string { return orDash(deref(t.ParentThreadID)) }},
	{"TOKENS", func(t api.Thread) string {
		if t.Usage == nil {
			return "-"
		}
		return fmt.Sprint(t.Usage.InputTokens + t.Usage.OutputTokens + t.Usage.CacheReadInputTokens + t.Usage.CacheCreation.Ephemeral5m + t.Usage.CacheCreation.Ephemeral1h)
	}},
	{"CREATED", func(t api.Thread) string { return since(t.CreatedAt) }},
}

// threadAgent names who thinks in a thread.
func threadAgent(t api.Thread) string {
	var agent struct{ Type, Name string }
	if json.Unmarshal(t.Agent, &agent) == nil && agent.Type == api.RosterAdvisor {
		return api.AdvisorName
	}
	return orDash(agent.Name)
}

func newThreads() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "threads",
		Short: "List, show and end the threads of a session",
		Long: `Each agent that a session's coordinator calls on works in a thread of its own,
beside the session's first. They share the session's sandbox.

What a thread asks for, and what becomes of it, is among the session's events
(hearth sessions events); the rest of what it does is among its own.`,
	}
	cmd.AddCommand(newThreadList(), newThreadGet(), newThreadEvents(), newThreadArchive())
	return cmd
}

func threadsPath(sessionID string) string {
	return "v1/sessions/" + url.PathEscape(sessionID) + "/threads"
}

func threadPath(args []string) string { return threadsPath(args[0]) + "/" + url.PathEscape(args[1]) }

func newThreadList() *cobra.Command {
	return newCall("list SESSION", "List the threads of a session, as they were made", "  hearth sessions threads list sesn_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			threads, err := listAll[api.Thread](cmd, c, threadsPath(args[0]), url.Values{}, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, threadColumns, threads)
		})
}

func newThreadGet() *cobra.Command {
	return newCall("get SESSION THREAD", "Show one thread", "  hearth sessions threads get sesn_… sthr_… -o json", showThread(http.MethodGet, ""))
}

func newThreadArchive() *cobra.Command {
	return newCall("archive SESSION THREAD", "End a thread that is idle, and keep it readable", "  hearth sessions threads archive sesn_… sthr_…", showThread(http.MethodPost, "/archive"))
}

func showThread(method, suffix string) func(*cobra.Command, *client.Client, output, []string) error {
	return func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
		var thread api.Thread
		if err := c.Do(cmd.Context(), method, threadPath(args)+suffix, nil, &thread); err != nil {
			return err
		}
		return printOne(cmd, out, threadColumns, thread)
	}
}

func newThreadEvents() *cobra.Command {
	return newCall("events SESSION THREAD", "Print a thread's events", "  hearth sessions threads events sesn_… sthr_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			events, err := listAll[json.RawMessage](cmd, c, threadPath(args)+"/events", url.Values{}, 0)
			if err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), events)
			}
			lines := newTimeline(cmd.OutOrStdout())
			for _, raw := range events {
				var e api.Event
				if err := json.Unmarshal(raw, &e); err != nil {
					return err
				}
				if e.ProcessedAt != nil {
					lines.print(e)
				}
			}
			return nil
		})
}
