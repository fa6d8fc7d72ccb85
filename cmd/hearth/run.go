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
	"slices"
	"strings"
	"sync"
	"time"

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
	return watchOrInterrupt(ctx, c, id, after, watcher{out: cmd.OutOrStdout(), in: cmd.InOrStdin(), json: r.json})
}

// interruptGrace is how long a session may take to stop.
const interruptGrace = 10 * time.Second

// watchOrInterrupt watches a session until its turn ends, for which it asks when
// ctx ends.
func watchOrInterrupt(ctx context.Context, c *client.Client, sessionID, after string, w watcher) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(interruptGrace, stop)
		if err := interrupt(watching, c, sessionID); err != nil {
			fmt.Fprintln(os.Stderr, "hearth: could not interrupt the session:", describe(err))
			stop()
		}
	})()
	w.interrupted = ctx.Done()
	err := watch(watching, c, sessionID, after, w)
	switch {
	case ctx.Err() == nil:
		return err
	case err != nil:
		return fmt.Errorf("interrupted, and session %s may still be running: %w", sessionID, err)
	}
	return fmt.Errorf("interrupted; continue with hearth run --session %s", sessionID)
}

func interrupt(ctx context.Context, c *client.Client, sessionID string) error {
	body := map[string]any{"events": []any{map[string]any{"type": api.EventUserInterrupt}}}
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

// watcher says how watch shows a session.
type watcher struct {
	out  io.Writer
	in   io.Reader
	json bool
	// interrupted ends questions at the terminal; nil for never.
	interrupted <-chan struct{}
}

// watch follows a session until its turn ends, asking the person at the
// terminal for the permissions that calls wait for.
func watch(ctx context.Context, c *client.Client, sessionID, after string, w watcher) error {
	timeline := newTimeline(w.out)
	var asks []api.Event // calls that wait for a confirmation
	answers := sync.OnceValue(func() <-chan string { return lines(w.in) })
	return follow(ctx, c, sessionID, after, func(e observed) error {
		if w.json {
			fmt.Fprintf(w.out, "%s\n", e.raw)
		} else {
			timeline.print(e.Event)
		}
		switch {
		case e.Type == api.EventAgentToolUse && e.EvaluatedPermission == api.PermissionAsk:
			asks = append(asks, e.Event)
		case e.Type == api.EventUserToolConfirmation:
			asks = slices.DeleteFunc(asks, func(call api.Event) bool { return call.ID == e.ToolUseID })
		case e.Type == api.EventSessionStatusIdle && len(asks) > 0 && !turnEnded(e.Event):
			if !w.atTerminal() {
				for _, call := range asks {
					fmt.Fprintf(os.Stderr, "answer with: hearth sessions confirm %s %s allow\n", sessionID, call.ID)
				}
				return &exitError{code: exitWaits}
			}
			err := w.confirm(ctx, c, sessionID, asks, answers())
			asks = nil
			return err
		case e.Type == api.EventSessionError && e.Error != nil && e.Error.RetryStatus.Type != api.RetryRetrying:
			return &exitError{code: exitFailed, err: errors.New("the turn failed: " + e.Error.Message)}
		}
		if turnEnded(e.Event) {
			return errStop
		}
		return nil
	})
}

// atTerminal tells whether there is a person to ask.
func (w watcher) atTerminal() bool {
	stdin, ok := w.in.(*os.File)
	return ok && !w.json && isTerminal(stdin)
}

// confirm asks for each waiting call and sends the answers.
func (w watcher) confirm(ctx context.Context, c *client.Client, sessionID string, asks []api.Event, answers <-chan string) error {
	for _, call := range asks {
		fmt.Fprintf(w.out, "\nallow %s %s? [y/N] ", call.Name, printable(callText(call)))
		var answer string
		select {
		case line, ok := <-answers:
			if !ok {
				return &exitError{code: exitWaits}
			}
			answer = line
		case <-w.interrupted:
			return nil // the turn is about to end
		}
		result := "deny"
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y") {
			result = "allow"
		}
		if err := confirm(ctx, c, sessionID, call.ID, result, ""); err != nil {
			return err
		}
	}
	return nil
}

// lines reads lines one by one until the end, which closes the channel. What
// nobody takes stays unread.
func lines(r io.Reader) <-chan string {
	read := make(chan string)
	go func() {
		defer close(read)
		for scanner := bufio.NewScanner(r); scanner.Scan(); {
			read <- scanner.Text()
		}
	}()
	return read
}

func confirm(ctx context.Context, c *client.Client, sessionID, eventID, result, message string) error {
	event := map[string]any{"type": api.EventUserToolConfirmation, "tool_use_id": eventID, "result": result}
	if message != "" {
		event["deny_message"] = message
	}
	return c.Do(ctx, http.MethodPost, "v1/sessions/"+url.PathEscape(sessionID)+"/events", map[string]any{"events": []any{event}}, nil)
}
