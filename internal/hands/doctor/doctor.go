// Package doctor examines a host and says in plain words whether a worker would
// do well on it: what works, what does not, and the command that mends it. It
// may run beside live workers; it changes nothing and leaves nothing behind. It
// may call sandbox, hand and what engines share, but knows no engine by name.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"hearth/internal/hands/sandbox"
)

// Config says what is to be examined. It is what a worker would be given.
type Config struct {
	// StateDir is the directory a worker would keep its state in. It need not
	// exist yet. Required.
	StateDir string
	// Engines makes the engines there are, with their state below a directory.
	Engines func(stateDir string) []sandbox.Engine
	// Wanted names the engines of which one must work, the preferred first.
	Wanted []string
	// MaxSessions and Pool are how many sandboxes there are to be at once.
	MaxSessions, Pool int
	// OnHost are the limits of a session whose files the host's kernel opens; nil where
	// it has a kernel of its own.
	OnHost *sandbox.Limits
	// BaseURL is the server's address; empty to leave the server out.
	BaseURL string
	// EnvironmentID and EnvironmentKey are the queue to serve. Without them they
	// are left out.
	EnvironmentID, EnvironmentKey string
	// EnvironmentKeyFile is a file with the key, used instead of EnvironmentKey.
	EnvironmentKeyFile string
}

// sandboxes is how many there may be at once.
func (c Config) sandboxes() int { return c.MaxSessions + c.Pool }

// Status is what came of a check.
type Status string

// The statuses, from good to bad.
const (
	Skipped Status = "skipped" // nothing to say: it was not asked for, or what it builds on does not work
	OK      Status = "ok"
	Warn    Status = "warn" // a worker runs, with something less
	Fail    Status = "fail" // a worker cannot do its work
)

// severity orders statuses.
var severity = []Status{Skipped, OK, Warn, Fail}

// Finding is the outcome of one check.
type Finding struct {
	Group   string `json:"group"`
	Name    string `json:"name"`
	Status  Status `json:"status"`
	Message string `json:"message"`
	// Fix is what to do about it, a command where there is one.
	Fix string `json:"fix,omitempty"`
	// Millis is how long what was tried took, where that is of interest.
	Millis int64 `json:"took_ms,omitempty"`
}

// Report is everything that was found.
type Report struct {
	// Status is the worst of all findings.
	Status   Status    `json:"status"`
	Findings []Finding `json:"checks"`
}

// Count tells how many findings have a status.
func (r Report) Count(s Status) int {
	n := 0
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

func good(name, format string, args ...any) Finding {
	return Finding{Name: name, Status: OK, Message: fmt.Sprintf(format, args...)}
}

func skipped(name, format string, args ...any) Finding {
	return Finding{Name: name, Status: Skipped, Message: fmt.Sprintf(format, args...)}
}

func warning(name, fix, format string, args ...any) Finding {
	return Finding{Name: name, Status: Warn, Fix: fix, Message: fmt.Sprintf(format, args...)}
}

func failure(name, fix, format string, args ...any) Finding {
	return Finding{Name: name, Status: Fail, Fix: fix, Message: fmt.Sprintf(format, args...)}
}

// check is one examination, independent of all others.
type check struct {
	group, name string
	within      time.Duration
	run         func(context.Context) []Finding
}

// The longest a check may take. Nothing a healthy host is asked takes a tenth
// of it; an engine is given as long as a worker gives it.
const (
	quick  = 5 * time.Second
	remote = 10 * time.Second
	trial  = 20 * time.Second
)

// Groups of findings that bear on one another.
const (
	groupIsolation = "Isolation"
	groupEngines   = "Engines"
)

// Examine makes every check, all at once, and reports in their order. It
// returns within half a minute, whatever hangs.
func Examine(ctx context.Context, cfg Config) Report {
	at, scratchErr := newScratch(cfg.StateDir)
	defer at.remove()
	checks := []check{
		{"Host", "system", quick, always(host)},
		{"Host", "programs", quick, always(programs)},
		{groupIsolation, "kernel", quick, func(ctx context.Context) []Finding { return isolation(ctx, at) }},
		{groupEngines, "engines", trial, func(ctx context.Context) []Finding { return engines(ctx, cfg, at, scratchErr) }},
		{groupEngines, "docker", quick, docker},
		{"Limits", "control groups", quick, always(limits)},
		{"Limits", "resources", quick, always(func() []Finding { return resources(cfg.sandboxes(), cfg.OnHost) })},
		{"State", "state directory", quick, always(func() []Finding { return state(cfg.StateDir, at, scratchErr) })},
		{"Clock", "clock", quick, always(clock)},
		{"Server", "server", remote, func(ctx context.Context) []Finding { return server(ctx, cfg) }},
	}
	found := make([][]Finding, len(checks))
	var running sync.WaitGroup
	for i, c := range checks {
		running.Go(func() { found[i] = c.do(ctx) })
	}
	running.Wait()
	all := slices.Concat(found...)
	if anyWorks(all, cfg.Wanted) {
		soften(all)
	}
	return newReport(all, cfg.secret())
}

// anyWorks tells whether one of the engines wanted does.
func anyWorks(findings []Finding, wanted []string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Group == groupEngines && f.Status == OK && slices.Contains(wanted, f.Name)
	})
}

// soften makes warnings of failures in what isolates: where an engine that was
// wanted works, it does without.
func soften(findings []Finding) {
	for i := range findings {
		if f := &findings[i]; f.Group == groupIsolation && f.Status == Fail {
			f.Status = Warn
		}
	}
}

func always(run func() []Finding) func(context.Context) []Finding {
	return func(context.Context) []Finding { return run() }
}

// newReport sums up, and makes sure that nothing is said that must not be.
func newReport(findings []Finding, secret string) Report {
	r := Report{Status: Skipped, Findings: findings}
	for i := range findings {
		f := &findings[i]
		f.Message, f.Fix = presentable(f.Message, secret), presentable(f.Fix, secret)
		if slices.Index(severity, f.Status) > slices.Index(severity, r.Status) {
			r.Status = f.Status
		}
	}
	return r
}

// shortestSecret is below every key's length. What is shorter is none, and may be
// part of any word.
const shortestSecret = 8

// presentable makes one harmless line of a text, parts of which servers and
// kernels have written.
func presentable(text, secret string) string {
	if len(secret) >= shortestSecret {
		text = strings.ReplaceAll(text, secret, "[key]")
	}
	text = strings.Join(strings.Fields(text), " ")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}

// grace is how long a check that has run out of time may take to say so itself,
// and to clean up.
const grace = 3 * time.Second

// do makes a check. One that neither ends nor heeds its context, as a dead
// network file system can bring about, is left to itself.
func (c check) do(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { done <- c.run(ctx) }()
	var found []Finding
	select {
	case found = <-done:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case found = <-done:
		case <-late.C:
			found = []Finding{failure(c.name, "look for what hangs: dmesg | tail", "no answer within %s", c.within)}
		}
	}
	for i := range found {
		found[i].Group = c.group
	}
	return found
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._-+:@%=", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// list joins words as a person would.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
