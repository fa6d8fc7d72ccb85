package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/client"
	"hearth/internal/db"
)

// readLog lists a session's events, limit of them or all for 0.
func readLog(ctx context.Context, c *client.Client, id, order string, limit int) ([]api.Event, error) {
	params := anthropic.BetaSessionEventListParams{Order: anthropic.BetaSessionEventListParamsOrder(order)}
	if limit > 0 {
		params.Limit = anthropic.Int(int64(limit))
	}
	var log []api.Event
	pager := c.SDK().Beta.Sessions.Events.ListAutoPaging(ctx, id, params)
	for pager.Next() {
		var e api.Event
		if err := json.Unmarshal([]byte(pager.Current().RawJSON()), &e); err != nil {
			return nil, err
		}
		if log = append(log, e); len(log) == limit {
			return log, nil
		}
	}
	return log, pager.Err()
}

func ids(log []api.Event) []string {
	all := make([]string, len(log))
	for i, e := range log {
		all[i] = e.ID
	}
	return all
}

// checkLogs wants each session's log to be whole, and to tell the truth.
func (r *round) checkLogs(ctx context.Context) error {
	for n, id := range r.sessions {
		c := r.clients[n%len(r.clients)]
		log, err := readLog(ctx, c, id, "asc", 0)
		if err != nil {
			return err
		}
		backwards, err := readLog(ctx, c, id, "desc", 0)
		if err != nil {
			return err
		}
		slices.Reverse(backwards)
		if !slices.Equal(ids(log), ids(backwards)) {
			return fmt.Errorf("session %s: its log is another one backwards", id)
		}
		if err := r.checkLog(id, log); err != nil {
			return fmt.Errorf("session %s: %w", id, err)
		}
	}
	return nil
}

// checkLog checks one session: every call has exactly one answer and ran as
// often as the log admits.
func (r *round) checkLog(id string, log []api.Event) error {
	seen, answers, ends := map[string]bool{}, map[string][]api.Event{}, 0
	for _, e := range log {
		if seen[e.ID] {
			return fmt.Errorf("event %s is in the log twice", e.ID)
		}
		seen[e.ID] = true
		switch e.Type {
		case api.EventUserToolResult:
			answers[e.ToolUseID] = append(answers[e.ToolUseID], e)
		case api.EventSessionStatusIdle:
			if e.StopReason.Type == api.StopEndTurn {
				ends++
			}
		}
	}
	if ends != 1 {
		return fmt.Errorf("its one turn ended %d times", ends)
	}
	runs, err := r.runs(id)
	if err != nil {
		return err
	}
	calls := 0
	for _, e := range log {
		if e.Type != api.EventAgentToolUse {
			continue
		}
		calls++
		if len(answers[e.ID]) != 1 {
			return fmt.Errorf("call %s has %d results", e.ID, len(answers[e.ID]))
		}
		left := 0
		for _, other := range log {
			if other.Type == api.EventSessionError && strings.Contains(other.Error.Message, e.ID) {
				left++
			}
		}
		if e.Name == api.ToolBash {
			number, err := numberOf(e)
			if err != nil {
				return err
			}
			if runs[number] > 1+left {
				return fmt.Errorf("call %s ran %d times, and the log has it left by %d workers", e.ID, runs[number], left)
			}
			if failed := answers[e.ID][0].IsError; runs[number] == 0 && (failed == nil || !*failed) {
				return fmt.Errorf("call %s has a result and never ran", e.ID)
			}
		}
		r.again += left
	}
	if len(answers) > calls {
		return fmt.Errorf("%d results answer %d calls", len(answers), calls)
	}
	if calls < r.turns {
		return fmt.Errorf("%d calls were made, of %d at least", calls, r.turns)
	}
	r.calls += calls
	return nil
}

// numberOf is the number of the command that a call runs.
func numberOf(e api.Event) (int, error) {
	var input struct{ Command string }
	if err := json.Unmarshal(e.Input, &input); err != nil {
		return 0, err
	}
	fields := strings.Fields(input.Command)
	if len(fields) < 2 {
		return 0, fmt.Errorf("call %s runs %q", e.ID, input.Command)
	}
	return strconv.Atoi(fields[1])
}

// runs counts how often each command of a session has run, on any worker.
func (r *round) runs(id string) (map[int]int, error) {
	counts := map[int]int{}
	for _, state := range r.states {
		raw, err := os.ReadFile(filepath.Join(state, "sessions", id, "work", ran))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				return nil, fmt.Errorf("session %s noted %q", id, line)
			}
			counts[n]++
		}
	}
	return counts, nil
}

// checkStore wants the database to be sound, and every number of every log to
// have been given out once.
func (r *round) checkStore(ctx context.Context) error {
	url := r.databaseURL
	if url == "" {
		url = "sqlite://" + filepath.Join(r.dir, "data0", "hearth.db")
	}
	d, err := db.Open(ctx, db.Config{URL: url})
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Read(ctx, func(tx db.Tx) error {
		if r.databaseURL == "" {
			var verdict string
			if err := tx.QueryRow(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
				return fmt.Errorf("integrity_check: %s, %w", verdict, err)
			}
		}
		// The sessions' only queued inputs are their first events, which took
		// their seats when they were made.
		rows, err := tx.Query(ctx, `SELECT s.id, s.seq, COUNT(e.seq), MIN(e.seq), MAX(e.seq) FROM sessions s JOIN events e ON e.log_id = s.id
			WHERE s.environment_id = ? GROUP BY s.id, s.seq`, r.environmentID)
		if err != nil {
			return err
		}
		defer rows.Close()
		sessions := 0
		for rows.Next() {
			var id string
			var given, count, first, last int
			if err := rows.Scan(&id, &given, &count, &first, &last); err != nil {
				return err
			}
			if first != 1 || last != given || count != given {
				return fmt.Errorf("session %s gave out %d numbers, and has %d events from %d to %d", id, given, count, first, last)
			}
			sessions++
		}
		if sessions != len(r.sessions) {
			return fmt.Errorf("the database has %d sessions, %d were made", sessions, len(r.sessions))
		}
		return rows.Err()
	})
}

// checkLeftovers wants nothing of the sandboxes to be left on this machine.
func (r *round) checkLeftovers() error {
	var found []error
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, p := range processes {
		// What has ended meanwhile cannot be read.
		command, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		mounts, _ := os.ReadFile(filepath.Join(p, "mountinfo"))
		directory, _ := os.Readlink(filepath.Join(p, "cwd"))
		if strings.Contains(string(command)+string(mounts)+directory, r.dir) {
			found = append(found, fmt.Errorf("process %s is left: %q", filepath.Base(p), strings.ReplaceAll(string(command), "\x00", " ")))
		}
	}
	for _, state := range r.states {
		for _, dir := range []string{r.engine, "pool"} {
			entries, err := os.ReadDir(filepath.Join(state, dir))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				found = append(found, err)
			}
			for _, e := range entries {
				if !e.IsDir() || e.Name() == "owners" {
					continue // which users the sandboxes may be, and which workers there have been
				}
				found = append(found, fmt.Errorf("%s is left in %s", e.Name(), filepath.Join(state, dir)))
			}
		}
	}
	return errors.Join(append(found, leftCgroups(filepath.Base(r.dir)))...)
}

// leftCgroups finds control groups of a round by its name.
func leftCgroups(name string) error {
	return filepath.WalkDir("/sys/fs/cgroup", func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return nil // there is none, or it has just gone
		}
		if strings.Contains(filepath.Base(path), name) {
			return fmt.Errorf("control group %s is left", path)
		}
		return nil
	})
}
