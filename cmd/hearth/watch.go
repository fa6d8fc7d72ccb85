package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"hearth/api"
	"hearth/client"
)

// watcher says how watch shows a session.
type watcher struct {
	out  io.Writer
	in   io.Reader
	json bool
	// interrupted ends questions at the terminal; nil for never.
	interrupted <-chan struct{}
}

// watch follows a session until its turn ends, asking the person at the
// terminal for the permissions that calls wait for. Events of the past are only
// shown: a turn may have ended since, and a question been answered.
func watch(ctx context.Context, c *client.Client, sessionID, after string, w watcher) error {
	timeline := newTimeline(w.out)
	var now turn
	visit := func(e observed) error {
		if w.json {
			fmt.Fprintf(w.out, "%s\n", shown(w.out, e.raw))
		} else {
			timeline.print(e.Event)
		}
		now.see(e.Event)
		return nil
	}
	answers := sync.OnceValue(func() <-chan string { return lines(w.in) })
	present := func() error {
		switch {
		case now.end != nil:
			return now.verdict()
		case !now.waits || len(now.asks) == 0:
			return nil
		case !w.atTerminal():
			for _, call := range now.asks {
				fmt.Fprintf(os.Stderr, "answer with: hearth sessions confirm %s %s allow\n", sessionID, call.ID)
			}
			return &exitError{code: exitWaits}
		}
		asks := now.asks
		now.asks = nil
		return w.confirm(ctx, c, sessionID, asks, answers())
	}
	return follow(ctx, c, sessionID, after, visit, present)
}

// turn is where the turn of a session stands.
type turn struct {
	asks    []api.Event // calls that need a permission and have no answer yet
	waits   bool        // the session is idle until they are answered
	failure string      // what the last error said
	end     *api.Event  // the event that ended the turn
}

func (t *turn) see(e api.Event) {
	switch {
	case turnEnded(e):
		t.end = &e
	case e.Type == api.EventSessionStatusRunning:
		t.waits, t.end = false, nil
	case e.Type == api.EventSessionStatusIdle:
		t.waits = true
	case e.Type == api.EventUserMessage:
		t.failure = ""
	case e.Type == api.EventAgentToolUse && e.EvaluatedPermission == api.PermissionAsk:
		t.asks = append(t.asks, e)
	case e.ToolUseID != "": // a confirmation, or the result of a call that was given up
		t.asks = slices.DeleteFunc(t.asks, func(call api.Event) bool { return call.ID == e.ToolUseID })
	case e.Type == api.EventSessionError:
		t.failure = errorText(e)
	}
}

// verdict is errStop for a turn that ended well, and what went wrong for others.
func (t *turn) verdict() error {
	if t.end.Type == api.EventSessionStatusIdle && t.end.StopReason != nil && t.end.StopReason.Type == api.StopEndTurn {
		return errStop
	}
	how := strings.TrimPrefix(strings.TrimPrefix(string(t.end.Type), "session."), "status_")
	if t.end.StopReason != nil {
		how = stopText(t.end.StopReason)
		if t.end.StopReason.Type == api.StopBudgetReached {
			how += "; it goes on when hearth sessions budget raises it"
		}
	}
	return fmt.Errorf("the turn failed: %s", firstOf(t.failure, how))
}

// atTerminal tells whether there is a person to ask.
func (w watcher) atTerminal() bool {
	return !w.json && isTerminal(w.in)
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

// interruptGrace is how long a session may take to stop.
const interruptGrace = 10 * time.Second

// watchOrInterrupt watches a session until its turn ends, for which it asks when
// ctx ends.
func watchOrInterrupt(ctx context.Context, c *client.Client, sessionID, after string, w watcher) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(interruptGrace, stop)
		if err := interrupt(watching, c, sessionID, ""); err != nil {
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
