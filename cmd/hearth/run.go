package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

const runHelp = `Start a session with a message, or continue one, and follow it until its turn ends.

The agent and the environment are those of a running hearth dev unless named.
A message of "-" is read from standard input.

When a call waits for permission and this is a terminal, you are asked; without
a terminal the command ends with exit code 3 and says how to answer.`

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
		Args: cobra.ExactArgs(1),
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
	if !r.json {
		fmt.Fprintln(cmd.ErrOrStderr(), "session", id)
	}
	return watch(ctx, c, id, after, watcher{out: cmd.OutOrStdout(), in: cmd.InOrStdin(), json: r.json})
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

// watcher says how watch shows a session.
type watcher struct {
	out  io.Writer
	in   io.Reader
	json bool
}

// watch follows a session until its turn ends, asking the person at the
// terminal for the permissions that calls wait for.
func watch(ctx context.Context, c *client.Client, sessionID, after string, w watcher) error {
	lines := newTimeline(w.out)
	asks := map[string]api.Event{} // calls that wait for a confirmation, by event id
	return follow(ctx, c, sessionID, after, func(e observed) error {
		if w.json {
			fmt.Fprintf(w.out, "%s\n", e.raw)
		} else {
			lines.print(e.Event)
		}
		switch {
		case e.Type == api.EventAgentToolUse && e.EvaluatedPermission == api.PermissionAsk:
			asks[e.ID] = e.Event
		case e.Type == api.EventUserToolConfirmation:
			delete(asks, e.ToolUseID)
		case e.Type == api.EventSessionStatusIdle && len(asks) > 0:
			return w.confirm(ctx, c, sessionID, asks)
		case e.Type == api.EventSessionError && e.Error != nil && e.Error.RetryStatus.Type != api.RetryRetrying:
			return &exitError{code: exitFailed, err: errors.New("the turn failed: " + e.Error.Message)}
		}
		if turnEnded(e.Event) {
			return errStop
		}
		return nil
	})
}

// confirm asks for each waiting call and sends the answers.
func (w watcher) confirm(ctx context.Context, c *client.Client, sessionID string, asks map[string]api.Event) error {
	if stdin, ok := w.in.(*os.File); !ok || w.json || !isTerminal(stdin) {
		for id := range asks {
			fmt.Fprintf(os.Stderr, "answer with: hearth sessions confirm %s %s allow\n", sessionID, id)
		}
		return &exitError{code: exitWaits}
	}
	answers := bufio.NewScanner(w.in)
	for id, call := range asks {
		fmt.Fprintf(w.out, "\nallow %s %s? [y/N] ", call.Name, printable(callText(call)))
		if !answers.Scan() {
			return &exitError{code: exitWaits}
		}
		result := "deny"
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(answers.Text())), "y") {
			result = "allow"
		}
		if err := confirm(ctx, c, sessionID, id, result, ""); err != nil {
			return err
		}
	}
	clear(asks)
	return nil
}

func confirm(ctx context.Context, c *client.Client, sessionID, eventID, result, message string) error {
	event := map[string]any{"type": api.EventUserToolConfirmation, "tool_use_id": eventID, "result": result}
	if message != "" {
		event["deny_message"] = message
	}
	return c.Do(ctx, http.MethodPost, "v1/sessions/"+url.PathEscape(sessionID)+"/events", map[string]any{"events": []any{event}}, nil)
}
