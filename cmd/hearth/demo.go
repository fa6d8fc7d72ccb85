package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
	"hearth/internal/hands/sandbox/docker"
)

const demoHelp = `Run a real job end to end and show it live.

It starts the brain and the hands in this process on a temporary directory,
creates a session, has it use all six tools in a sandbox, prints each event as
it happens and ends with what that proved. Nothing is left behind.

The exit code is 0 only if every step did what it should.`

func newDemo() *cobra.Command {
	var (
		logs     logFlags
		engine   string
		inDocker docker.Config
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:     "demo",
		Short:   "Run a real job end to end and show it live",
		Long:    demoHelp,
		GroupID: "start",
		Example: "  hearth demo\n  hearth demo --json | jq .type",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := logs.logger()
			dir, err := os.MkdirTemp("", "hearth-demo-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			dev := devConfig{
				brain: brainConfig{listen: "127.0.0.1:0", data: dir, model: modelRehearsal, log: log},
				hands: defaultHands(),
			}
			dev.hands.engine, dev.hands.docker, dev.hands.pool = engine, inDocker, 0
			return dev.run(cmd.Context(), func(ctx context.Context, info devInfo) error {
				d := demo{out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(), json: asJSON, isolated: engine != engineProcess, dir: dir}
				return d.run(ctx, client.New(info.BaseURL, info.APIKey), info)
			})
		},
	}
	logs.register(cmd.Flags(), "warn")
	registerEngine(cmd.Flags(), &engine)
	registerDocker(cmd.Flags(), &inDocker)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each event as one line of JSON; the summary goes to standard error")
	return cmd
}

// demoStep is one instruction to the rehearsal model and what must come of it.
type demoStep struct {
	line string
	// fails says that the call must end in an error, for what a sandbox refuses.
	fails bool
	// shows must be in the result's text.
	shows string
	// isolation marks a step that only an isolating engine passes.
	isolation bool
}

// demoJob uses all six tools, the shell's memory between calls, calls in
// parallel, and the walls of the sandbox.
var demoJob = []demoStep{
	{line: "write notes/plan.md # Plan (draft)", shows: "notes/plan.md"},
	{line: "read notes/plan.md", shows: "# Plan (draft)"},
	{line: "edit notes/plan.md draft => final", shows: "edited"},
	{line: "grep final", shows: "plan.md:1:"},
	{line: "glob **/*.md", shows: "notes/plan.md"},
	{line: "$ cd notes && export MOOD=warm && wc -c plan.md", shows: "plan.md"},
	{line: `$ echo "still in $(basename "$PWD"), still $MOOD"`, shows: "still in notes, still warm"},
	{line: "$ uname -sm", shows: "Linux"},
	{line: "read notes/missing.md", fails: true, shows: "no such file"},
	{line: "$ grep root: /etc/shadow", fails: true, isolation: true},
	{line: "$ ls -d /proc/[0-9]* | wc -l && kill -0 " + hostProcess, fails: true, isolation: true},
	{line: "$ exec 9<>/dev/tcp/192.0.2.1/443", fails: true, isolation: true},
}

// hostProcess stands for a process of the host in a demo line.
const hostProcess = "HOST_PROCESS"

// parallelFrom is the first of two lines that run in one parallel turn.
const parallelFrom = 3

type demo struct {
	out, notes io.Writer
	json       bool
	isolated   bool
	dir        string

	calls    []api.Event          // in the order made
	results  map[string]api.Event // by the id of their call
	problems []string
}

func (d *demo) run(ctx context.Context, c *client.Client, info devInfo) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	d.results = map[string]api.Event{}
	steps := slices.DeleteFunc(slices.Clone(demoJob), func(s demoStep) bool { return s.isolation && !d.isolated })
	began := time.Now()
	session, err := d.start(ctx, c, info, steps)
	if err != nil {
		return err
	}
	if err := d.follow(ctx, c, session); err != nil {
		return fmt.Errorf("follow session %s: %w", session, err)
	}
	elapsed := time.Since(began)
	d.check(steps)
	if err := d.checkLog(ctx, c, session); err != nil {
		return err
	}
	d.summary(steps, elapsed)
	if len(d.problems) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func (d *demo) start(ctx context.Context, c *client.Client, info devInfo, steps []demoStep) (string, error) {
	var script strings.Builder
	for i, s := range steps {
		if i == parallelFrom+1 {
			script.WriteString("&\n")
		}
		script.WriteString(strings.ReplaceAll(s.line, hostProcess, fmt.Sprint(os.Getpid())) + "\n")
	}
	body := map[string]any{
		"agent": info.AgentID, "environment_id": info.EnvironmentID, "title": "demo",
		"initial_events": []any{userMessage(script.String())},
	}
	var session api.Session
	err := c.Do(ctx, http.MethodPost, "v1/sessions", body, &session)
	return session.ID, err
}

func (d *demo) follow(ctx context.Context, c *client.Client, session string) error {
	lines := newTimeline(d.out)
	return follow(ctx, c, session, "", func(e observed) error {
		if d.json {
			fmt.Fprintf(d.out, "%s\n", e.raw)
		} else {
			lines.print(e.Event)
		}
		switch e.Type {
		case api.EventAgentToolUse:
			d.calls = append(d.calls, e.Event)
		case api.EventUserToolResult, api.EventAgentToolResult:
			if _, twice := d.results[e.ToolUseID]; twice {
				d.problem("call %s has two results", e.ToolUseID)
			}
			d.results[e.ToolUseID] = e.Event
		case api.EventSessionError:
			d.problem("session error: %s", errorText(e.Event))
		}
		if turnEnded(e.Event) {
			if e.StopReason == nil || e.StopReason.Type != api.StopEndTurn {
				d.problem("the turn ended with %s", stopText(e.StopReason))
			}
			return errStop
		}
		return nil
	}, nil)
}

// check compares each call with the step that asked for it.
func (d *demo) check(steps []demoStep) {
	if len(d.calls) != len(steps) {
		d.problem("%d steps made %d calls", len(steps), len(d.calls))
		return
	}
	for i, s := range steps {
		result, answered := d.results[d.calls[i].ID]
		if !answered {
			d.problem("step %q has no result", s.line)
			continue
		}
		failed := result.IsError != nil && *result.IsError
		if text := contentText(result.Content); failed != s.fails || !strings.Contains(text, s.shows) {
			d.problem("step %q: error %t, want %t, and %q in %q", s.line, failed, s.fails, s.shows, text)
		}
	}
}

// checkLog makes sure that the log, read back, is what was seen live, and that
// the file the agent wrote lies in the session's directory on this host.
func (d *demo) checkLog(ctx context.Context, c *client.Client, session string) error {
	var listed api.Page[json.RawMessage]
	if err := c.Do(ctx, http.MethodGet, "v1/sessions/"+session+"/events?types[]=agent.tool_use&limit=1000", nil, &listed); err != nil {
		return err
	}
	if len(listed.Data) != len(d.calls) {
		d.problem("%d calls were seen live, %d are in the log", len(d.calls), len(listed.Data))
	}
	if _, err := os.Stat(filepath.Join(d.dir, "worker", "sessions", session, "work", "notes", "plan.md")); err != nil {
		d.problem("the file the agent wrote is not in the session's working directory: %v", err)
	}
	return nil
}

func (d *demo) problem(format string, args ...any) {
	d.problems = append(d.problems, fmt.Sprintf(format, args...))
}

func (d *demo) summary(steps []demoStep, elapsed time.Duration) {
	w := d.out
	if d.json {
		w = d.notes
	}
	fmt.Fprintln(w)
	if len(d.problems) > 0 {
		fmt.Fprintln(w, "This did not go as it should:")
		for _, p := range d.problems {
			fmt.Fprintln(w, "  ✗", p)
		}
		return
	}
	fmt.Fprintf(w, "Proved in %.2f s:\n", elapsed.Seconds())
	for _, line := range d.proved(steps) {
		fmt.Fprintln(w, "  ✓", line)
	}
}

func (d *demo) proved(steps []demoStep) []string {
	var trips []time.Duration
	for _, call := range d.calls {
		trips = append(trips, d.results[call.ID].ProcessedAt.Sub(*call.ProcessedAt))
	}
	slices.Sort(trips)
	lines := []string{
		fmt.Sprintf("the brain queued the session, a worker claimed it over HTTP and answered %d calls, each exactly once", len(steps)),
		"bash, read, write, edit, glob and grep work, two of them called in parallel",
		"the shell kept its directory and variables from one call to the next",
		"a tool that fails is an answer to the agent, not the end of the session",
		"what was seen live is what the log holds, and the files stayed in the session's own directory",
	}
	if d.isolated {
		lines = append(lines, "the sandbox could not read the host's secrets, see its processes or reach a network")
	} else {
		lines = append(lines, "not shown: isolation, for the process engine has none")
	}
	return append(lines, fmt.Sprintf("from call to recorded result: median %.1f ms, slowest %.1f ms (the first waits for its sandbox)",
		milliseconds(trips[len(trips)/2]), milliseconds(trips[len(trips)-1])))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
