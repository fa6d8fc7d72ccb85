package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"hearth/api"
)

// timeline prints events for people: when each came, what it was, and how long
// calls and model requests took.
type timeline struct {
	w       io.Writer
	colour  bool
	start   time.Time
	pending map[string]openSpan // calls and model requests that have begun, by event id
	threads map[string]string   // who speaks in threads other than the primary one, by thread id
}

type openSpan struct {
	name, speaker string
	at            time.Time
}

func newTimeline(w io.Writer) *timeline {
	return &timeline{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "", pending: map[string]openSpan{}, threads: map[string]string{}}
}

// isTerminal tells whether v is a terminal, so probably a person. /dev/null, which
// schedulers put in the place of one, is a character device too, and is none.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

const (
	styleDim    = "2"
	styleBold   = "1"
	styleRed    = "31"
	styleGreen  = "32"
	styleYellow = "33"
)

func (t *timeline) paint(style, text string) string {
	if !t.colour || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// print prints one event; those that mean nothing to a person are left out.
func (t *timeline) print(e api.Event) {
	at := *e.ProcessedAt
	if t.start.IsZero() {
		t.start = at
	}
	switch e.Type {
	case api.EventUserMessage, api.EventSystemMessage:
		t.line(at, "message", "", contentText(e.Content))
	case api.EventAgentMessage:
		t.line(at, "agent", "", contentText(e.Content))
	case api.EventAgentToolUse, api.EventAgentCustomToolUse:
		t.pending[e.ID] = openSpan{name: e.Name, speaker: t.speaker(e), at: at}
		t.line(at, "call", e.Name, t.speaker(e)+callText(e))
	case api.EventThreadCreated:
		t.threads[deref(e.SessionThreadID)] = e.AgentName
		t.line(at, "thread", "", t.paint(styleYellow, e.AgentName)+" begins "+t.paint(styleDim, deref(e.SessionThreadID)))
	case api.EventThreadMessageSent:
		t.line(at, "to", "", t.paint(styleYellow, firstOf(e.ToAgentName, "coordinator"))+": "+contentText(e.Content))
	case api.EventThreadMessageReceived:
		t.line(at, "from", "", t.paint(styleYellow, firstOf(e.FromAgentName, "coordinator"))+": "+contentText(e.Content))
	case api.EventThreadStatusIdle, api.EventThreadStatusRescheduled, api.EventThreadStatusTerminated:
		if name, ok := t.threads[deref(e.SessionThreadID)]; ok {
			how := strings.TrimPrefix(string(e.Type), "session.thread_status_")
			t.line(at, "thread", "", t.paint(styleYellow, name)+" is "+strings.TrimSuffix(how+", "+stopText(e.StopReason), ", "))
		}
	case api.EventUserToolResult, api.EventAgentToolResult, api.EventUserCustomToolResult:
		t.result(at, e)
	case api.EventUserToolConfirmation:
		t.line(at, "answer", t.pending[e.ToolUseID].name, t.pending[e.ToolUseID].speaker+e.Result)
	case api.EventUserInterrupt:
		t.line(at, "message", "", t.speaker(e)+"interrupt")
	case api.EventModelRequestStart:
		t.pending[e.ID] = openSpan{at: at}
	case api.EventModelRequestEnd:
		t.modelRequest(at, e)
	case api.EventSessionError:
		t.line(at, "error", "", t.paint(styleRed, errorText(e)))
	case api.EventSessionStatusIdle:
		t.line(at, "idle", "", stopText(e.StopReason))
	case api.EventSessionStatusRescheduled, api.EventSessionStatusTerminated, api.EventSessionDeleted:
		t.line(at, "session", "", strings.TrimPrefix(strings.TrimPrefix(string(e.Type), "session."), "status_"))
	}
}

// speaker says which agent an event is of, unless it is the session's own.
func (t *timeline) speaker(e api.Event) string {
	if e.SessionThreadID == nil {
		return ""
	}
	return t.paint(styleYellow, firstOf(t.threads[*e.SessionThreadID], *e.SessionThreadID)) + ": "
}

func (t *timeline) result(at time.Time, e api.Event) {
	id := firstOf(e.ToolUseID, e.CustomToolUseID)
	call := t.pending[id]
	delete(t.pending, id)
	verdict := t.paint(styleGreen, "ok")
	if e.IsError != nil && *e.IsError {
		verdict = t.paint(styleRed, "error")
	}
	t.line(at, "result", call.name, call.speaker+verdict+" "+t.paint(styleDim, took(call.at, at))+"\n"+contentText(e.Content))
}

func (t *timeline) modelRequest(at time.Time, e api.Event) {
	start := t.pending[e.ModelRequestStartID]
	delete(t.pending, e.ModelRequestStartID)
	usage := ""
	if u := e.ModelUsage; u != nil && u.InputTokens+u.OutputTokens > 0 {
		usage = fmt.Sprintf(", %d tokens in, %d out", u.InputTokens+u.CacheReadInputTokens+u.CacheCreationInputTokens, u.OutputTokens)
	}
	t.line(at, "model", "", t.paint(styleDim, "thought "+took(start.at, at)+usage))
}

// maxShown is how many lines of a text the timeline shows.
const maxShown = 12

// line prints the first line of text beside its labels and the rest below it.
func (t *timeline) line(at time.Time, kind, name, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	fmt.Fprintf(t.w, "%s  %s %s %s\n",
		t.paint(styleDim, fmt.Sprintf("%8.3fs", at.Sub(t.start).Seconds())),
		t.paint(styleBold, fmt.Sprintf("%-8s", kind)),
		t.paint(styleYellow, fmt.Sprintf("%-6s", name)), printable(lines[0]))
	for i, l := range lines[1:] {
		if i == maxShown {
			fmt.Fprintf(t.w, "%*s%s\n", 27, "", t.paint(styleDim, fmt.Sprintf("… %d more lines", len(lines)-1-i)))
			return
		}
		fmt.Fprintf(t.w, "%*s%s\n", 27, "", printable(l))
	}
}

// printable keeps what a tool printed from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) {
			return r
		}
		return '·'
	}, s)
}

func took(from, to time.Time) string {
	if from.IsZero() {
		return ""
	}
	d := to.Sub(from)
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func contentText(blocks []api.Block) string {
	texts := make([]string, 0, len(blocks))
	for _, b := range blocks {
		if b.Type == "text" {
			texts = append(texts, b.Text)
		} else {
			texts = append(texts, "["+b.Type+"]")
		}
	}
	return strings.Join(texts, "\n")
}

// callText is a call's input as a person would write it.
func callText(e api.Event) string {
	var in struct {
		Command, Pattern, Path string
		FilePath               string `json:"file_path"`
		Content                string
		OldString              string `json:"old_string"`
		NewString              string `json:"new_string"`
	}
	if json.Unmarshal(e.Input, &in) != nil {
		return string(e.Input)
	}
	switch {
	case e.Type == api.EventAgentCustomToolUse:
		return string(e.Input)
	case e.Name == api.ToolBash && in.Command != "":
		return "$ " + in.Command
	case e.Name == api.ToolWrite:
		return fmt.Sprintf("%s (%d bytes)", in.FilePath, len(in.Content))
	case e.Name == api.ToolEdit:
		return fmt.Sprintf("%s: %q becomes %q", in.FilePath, in.OldString, in.NewString)
	case in.FilePath != "":
		return in.FilePath
	case in.Pattern != "":
		return strings.TrimSpace(in.Pattern + " " + in.Path)
	}
	return string(e.Input)
}

func errorText(e api.Event) string {
	if e.Error == nil {
		return "unknown"
	}
	return fmt.Sprintf("%s: %s (%s)", e.Error.Type, e.Error.Message, e.Error.RetryStatus.Type)
}

func stopText(r *api.StopReason) string {
	if r == nil {
		return ""
	}
	if r.Type == api.StopRequiresAction {
		return fmt.Sprintf("waits for %d answer(s)", len(r.EventIDs))
	}
	return strings.ReplaceAll(r.Type, "_", " ")
}
