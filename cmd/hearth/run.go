package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

const runHelp = `Start a session with a message, or continue one, and follow it until its turn ends.

The agent and the environment are those of a running hearth dev unless named.
A message of "-" is read from standard input.

When a call waits for permission and this is a terminal, you are asked; without
a terminal the command ends with exit code 3 and says how to answer.

Ctrl-C interrupts the session, waits until it has stopped, and ends with exit
code 1; the session can be continued. A second one ends only this command.`

func newRun() *cobra.Command {
	r := runCommand{}
	cmd := &cobra.Command{
		Use:     "run MESSAGE",
		Short:   "Start or continue a session and follow it live",
		Long:    runHelp,
		GroupID: "start",
		Example: `  hearth run '$ uname -a'
  hearth run --session sesn_… 'and now the kernel version'
  hearth run --json - < task.txt`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("the message is one argument: put it in quotes")
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: r.run,
	}
	r.to.register(cmd.Flags())
	cmd.Flags().StringVar(&r.session, "session", "", "continue this session")
	cmd.Flags().StringVar(&r.agent, "agent", "", "the agent of a new session")
	cmd.Flags().StringVar(&r.environment, "environment", "", "the environment of a new session")
	cmd.Flags().StringVar(&r.title, "title", "", "the title of a new session")
	cmd.Flags().BoolVar(&r.json, "json", false, "print each event as one line of JSON")
	return cmd
}

type runCommand struct {
	to                                 endpoint
	session, agent, environment, title string
	json                               bool
}

func (r *runCommand) run(cmd *cobra.Command, args []string) error {
	message, err := messageFrom(args[0], cmd.InOrStdin())
	if err != nil {
		return err
	}
	c, info, err := r.to.connect()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	id, after := r.session, ""
	if id == "" {
		id, err = r.create(ctx, c, info, message)
	} else {
		after, err = send(ctx, c, id, message)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "session", id)
	return watchOrInterrupt(ctx, c, id, after, watcher{out: cmd.OutOrStdout(), in: cmd.InOrStdin(), json: r.json})
}

// interrupt stops a session, or one thread of it.
func interrupt(ctx context.Context, c *client.Client, sessionID, threadID string) error {
	event := map[string]any{"type": api.EventUserInterrupt}
	if threadID != "" {
		event["session_thread_id"] = threadID
	}
	body := map[string]any{"events": []any{event}}
	return c.Do(ctx, http.MethodPost, "v1/sessions/"+url.PathEscape(sessionID)+"/events", body, nil)
}

func messageFrom(arg string, stdin io.Reader) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	raw, err := io.ReadAll(stdin)
	if err != nil {
		return "", fmt.Errorf("read the message: %w", err)
	}
	if strings.TrimSpace(string(raw)) == "" {
		return "", usageError("the message on standard input is empty")
	}
	return string(raw), nil
}

func (r *runCommand) create(ctx context.Context, c *client.Client, info devInfo, message string) (string, error) {
	agent, environment := firstOf(r.agent, info.AgentID), firstOf(r.environment, info.EnvironmentID)
	if agent == "" || environment == "" {
		return "", usageError("name the agent and the environment with --agent and --environment (see hearth agents list, hearth environments list), or start hearth dev")
	}
	body := map[string]any{
		"agent": agent, "environment_id": environment,
		"initial_events": []any{userMessage(message)},
	}
	if r.title != "" {
		body["title"] = r.title
	}
	var session api.Session
	err := c.Do(ctx, http.MethodPost, "v1/sessions", body, &session)
	return session.ID, err
}

// send sends a message to a session and returns the id of the event before it,
// where following what it brings begins.
func send(ctx context.Context, c *client.Client, sessionID, message string) (string, error) {
	path := "v1/sessions/" + url.PathEscape(sessionID) + "/events"
	var last api.Page[api.EventHead]
	if err := c.Do(ctx, http.MethodGet, path+"?limit=1&order=desc", nil, &last); err != nil {
		return "", err
	}
	body := map[string]any{"events": []any{userMessage(message)}}
	if err := c.Do(ctx, http.MethodPost, path, body, nil); err != nil {
		return "", err
	}
	if len(last.Data) == 0 {
		return "", nil
	}
	return last.Data[0].ID, nil
}

func userMessage(text string) map[string]any {
	return map[string]any{"type": api.EventUserMessage, "content": []api.Block{api.TextBlock(text)}}
}

func confirm(ctx context.Context, c *client.Client, sessionID, eventID, result, message string) error {
	event := map[string]any{"type": api.EventUserToolConfirmation, "tool_use_id": eventID, "result": result}
	if message != "" {
		event["deny_message"] = message
	}
	return c.Do(ctx, http.MethodPost, "v1/sessions/"+url.PathEscape(sessionID)+"/events", map[string]any{"events": []any{event}}, nil)
}
