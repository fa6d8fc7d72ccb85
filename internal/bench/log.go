package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"golang.org/x/sync/errgroup"
)

// eventsPerSecond measures the whole way into the log: messages by HTTP, turns
// by the loop, every event durable.
func eventsPerSecond(ctx context.Context, cfg Config) (Table, error) {
	table := Table{Title: "Durable events through the API", Header: []string{"database", "sessions", "messages", "events", "seconds", "events/s"},
		Notes: "64 clients post a message at a time, which the rehearsal model answers; client, server and database share the machine. What the log alone takes is measured by `go test -bench Append ./internal/brain/session`."}
	databases := []struct{ name, url string }{{"SQLite", ""}, {"Postgres", cfg.DatabaseURL}}
	for _, d := range databases {
		if d.name == "Postgres" && d.url == "" {
			cfg.say("no --database-url: Postgres is not measured")
			continue
		}
		row, err := events(ctx, cfg, d.url)
		if err != nil {
			return table, fmt.Errorf("%s: %w", d.name, err)
		}
		table.Rows = append(table.Rows, append([]string{d.name}, row...))
	}
	return table, nil
}

func events(ctx context.Context, cfg Config, databaseURL string) ([]string, error) {
	p, err := open(ctx, cfg, databaseURL)
	if err != nil {
		return nil, err
	}
	defer p.close()
	environmentID, _, err := p.environment(ctx, "bench-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err != nil {
		return nil, err
	}
	const sessions = 64
	turns := cfg.times(40)
	ids := make([]string, sessions)
	began := time.Now()
	group, within := errgroup.WithContext(ctx)
	for i := range ids {
		group.Go(func() (err error) {
			if ids[i], err = p.session(within, environmentID, ""); err != nil {
				return err
			}
			for range turns {
				if err := p.say(within, ids[i], "hello"); err != nil {
					return err
				}
			}
			return p.turnEnds(within, ids[i])
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	took, written := time.Since(began), 0
	for _, id := range ids {
		log, err := p.log(ctx, id)
		if err != nil {
			return nil, err
		}
		written += len(log)
	}
	return []string{fmt.Sprint(sessions), fmt.Sprint(sessions * turns), fmt.Sprint(written), fmt.Sprintf("%.1f", took.Seconds()), fmt.Sprintf("%.0f", float64(written)/took.Seconds())}, nil
}

// memoryOfSessions measures what sessions cost the server that are open, and
// what a client on the stream of each adds.
func memoryOfSessions(ctx context.Context, cfg Config) (Table, error) {
	const sessions = 1000
	table := Table{Title: "Memory of open sessions", Header: []string{"the server", "resident MiB", "more, KiB per session"},
		Notes: "Resident memory of the server process, database caches and all. A session holds no memory while nothing happens in it; each stream is a connection of its own."}
	p, err := open(ctx, cfg, "")
	if err != nil {
		return table, err
	}
	defer p.close()
	environmentID, _, err := p.environment(ctx, "bench")
	if err != nil {
		return table, err
	}
	var ids []string
	var before float64
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"after its first 1,000 turns", func() error { _, err := p.talk(ctx, environmentID, sessions); return err }},
		{"with 1,000 sessions more", func() (err error) { ids, err = p.talk(ctx, environmentID, sessions); return err }},
		{"with a live stream of each", func() error { return p.openStreams(ctx, ids) }},
	} {
		if err := step.do(); err != nil {
			return table, err
		}
		after, err := p.settled(ctx)
		if err != nil {
			return table, err
		}
		row := []string{step.what, fmt.Sprintf("%.1f", after/1024), ""}
		if before > 0 {
			row[2] = fmt.Sprintf("%.1f", (after-before)/sessions)
		}
		table.Rows, before = append(table.Rows, row), after
	}
	return table, nil
}

// talk makes sessions with one turn behind them.
func (p *platform) talk(ctx context.Context, environmentID string, n int) ([]string, error) {
	ids := make([]string, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range ids {
		group.Go(func() (err error) {
			if ids[i], err = p.session(ctx, environmentID, "hello"); err != nil {
				return err
			}
			return p.turnEnds(ctx, ids[i])
		})
	}
	return ids, group.Wait()
}

// openStreams leaves a stream of each session open as long as ctx.
func (p *platform) openStreams(ctx context.Context, ids []string) error {
	for _, id := range ids {
		stream := p.client.SDK().Beta.Sessions.Events.StreamEvents(ctx, id, anthropic.BetaSessionEventStreamParams{})
		if err := stream.Err(); err != nil {
			return err
		}
	}
	return nil
}

// settled is the server's resident memory in KiB once it grows and shrinks no
// more.
func (p *platform) settled(ctx context.Context) (float64, error) {
	const quiet = 5 * time.Second // the collector runs at least that often under load
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(quiet):
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.server.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
		}
	}
	return 0, fmt.Errorf("no resident memory in /proc/%d/status", p.server.cmd.Process.Pid)
}
