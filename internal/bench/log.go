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

// memoryOfSessions measures what a session that is open, with a client on its
// stream, costs the server.
func memoryOfSessions(ctx context.Context, cfg Config) (Table, error) {
	table := Table{Title: "Memory of open sessions with a live stream each", Header: []string{"sessions", "server before MiB", "server after MiB", "KiB per session"},
		Notes: "Resident memory of the server process; each stream is a connection of its own."}
	p, err := open(ctx, cfg, "")
	if err != nil {
		return table, err
	}
	defer p.close()
	environmentID, _, err := p.environment(ctx, "bench")
	if err != nil {
		return table, err
	}
	before, err := p.settled(ctx)
	if err != nil {
		return table, err
	}
	const sessions = 1000
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for range sessions {
		group.Go(func() error { return p.openStream(ctx, within, environmentID) })
	}
	if err := group.Wait(); err != nil {
		return table, err
	}
	after, err := p.settled(ctx)
	if err != nil {
		return table, err
	}
	table.Rows = [][]string{{fmt.Sprint(sessions), fmt.Sprintf("%.1f", before/1024), fmt.Sprintf("%.1f", after/1024), fmt.Sprintf("%.1f", (after-before)/sessions)}}
	return table, nil
}

// openStream makes a session with one turn behind it and leaves a stream of it
// open as long as ctx.
func (p *platform) openStream(ctx, within context.Context, environmentID string) error {
	id, err := p.session(within, environmentID, "hello")
	if err != nil {
		return err
	}
	if err := p.turnEnds(within, id); err != nil {
		return err
	}
	stream := p.client.SDK().Beta.Sessions.Events.StreamEvents(ctx, id, anthropic.BetaSessionEventStreamParams{})
	return stream.Err()
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
