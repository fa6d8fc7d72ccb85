package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hearth/api"
)

// claims measures how long work waits for an idle worker: from the moment the
// item is on the queue to its acknowledgement, by the server's clock.
func claims(ctx context.Context, cfg Config) (Table, error) {
	var results []sample
	err := eachWorker(ctx, cfg, func(p *platform, environmentID string, slow bool) error {
		n, spread := cfg.times(100), 100*time.Millisecond
		if slow {
			n, spread = cfg.times(15), 2*time.Second
		}
		got, err := p.claims(ctx, environmentID, n, spread)
		results = append(results, got)
		return err
	})
	if err != nil {
		return Table{}, err
	}
	return compare("Work offered → claimed and acknowledged, idle worker", results,
		"Sessions start at random moments, each once the worker is idle again. The official worker pauses between empty polls."), nil
}

func (p *platform) claims(ctx context.Context, environmentID string, n int, spread time.Duration) (sample, error) {
	for range n {
		id, err := p.session(ctx, environmentID, "")
		if err != nil {
			return nil, err
		}
		time.Sleep(rand.N(spread)) // the moment must not follow from what the worker does
		if err := p.say(ctx, id, "hello"); err != nil {
			return nil, err
		}
		if err := p.turnEnds(ctx, id); err != nil {
			return nil, err
		}
		if err := p.allServed(ctx, environmentID); err != nil {
			return nil, err
		}
	}
	items, err := list[api.Work](ctx, p, "v1/environments/"+environmentID+"/work")
	if err != nil {
		return nil, err
	}
	var waited sample
	for _, item := range items {
		waited = append(waited, item.AcknowledgedAt.Sub(item.CreatedAt))
	}
	return waited, nil
}

// allServed waits until every item has been served.
func (p *platform) allServed(ctx context.Context, environmentID string) error {
	return eventually(ctx, "the worker is idle", func() (bool, error) {
		var newest api.Page[api.Work]
		err := p.client.Do(ctx, http.MethodGet, "v1/environments/"+environmentID+"/work?limit=1", nil, &newest)
		return err == nil && newest.Data[0].State == api.WorkStopped, err
	})
}

// calls measures a tool call's way: from its event in the log to that of its
// result, by the server's clock.
func calls(ctx context.Context, cfg Config) (Table, error) {
	var results []sample
	err := eachWorker(ctx, cfg, func(p *platform, environmentID string, _ bool) error {
		got, err := p.calls(ctx, environmentID, cfg.times(500))
		results = append(results, got)
		return err
	})
	if err != nil {
		return Table{}, err
	}
	return compare("Tool call in the log → result accepted, `bash` with `:`, warm", results,
		"One call at a time. Hearth's is in a sandbox, the official worker's is a plain child process."), nil
}

func (p *platform) calls(ctx context.Context, environmentID string, n int) (sample, error) {
	const cold = 5 // the first calls find caches and connections cold
	id, err := p.session(ctx, environmentID, strings.Repeat("$ :\n", n+cold))
	if err != nil {
		return nil, err
	}
	if err := p.turnEnds(ctx, id); err != nil {
		return nil, err
	}
	events, err := p.log(ctx, id)
	if err != nil {
		return nil, err
	}
	asked := map[string]time.Time{}
	var took sample
	for _, e := range events {
		switch e.Type {
		case api.EventAgentToolUse:
			asked[e.ID] = *e.ProcessedAt
		case api.EventUserToolResult:
			took = append(took, e.ProcessedAt.Sub(asked[e.ToolUseID]))
		}
	}
	if len(took) != n+cold {
		return nil, fmt.Errorf("%d calls have %d results", n+cold, len(took))
	}
	return took[cold:], nil
}

// sessionsPerSecond measures whole sessions: created, one bash call, ended.
func sessionsPerSecond(ctx context.Context, cfg Config) (Table, error) {
	table := Table{Title: "Sessions to completion, each with one `bash` call", Header: []string{"worker", "sessions", "at once", "seconds", "sessions/s"},
		Notes: "One worker process with its default settings: Hearth's serves eight sessions at once, the official one serves them one by one."}
	n := 0
	err := eachWorker(ctx, cfg, func(p *platform, environmentID string, slow bool) error {
		sessions, atOnce := cfg.times(400), 32
		if slow {
			sessions = cfg.times(60)
		}
		began := time.Now()
		if err := p.sessions(ctx, environmentID, sessions, atOnce); err != nil {
			return err
		}
		took := time.Since(began)
		table.Rows = append(table.Rows, []string{workers[n].name, fmt.Sprint(sessions), fmt.Sprint(atOnce),
			fmt.Sprintf("%.1f", took.Seconds()), fmt.Sprintf("%.1f", float64(sessions)/took.Seconds())})
		n++
		return nil
	})
	return table, err
}

func (p *platform) sessions(ctx context.Context, environmentID string, n, atOnce int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for range n {
		group.Go(func() error {
			id, err := p.session(ctx, environmentID, "$ echo done")
			return errors.Join(err, p.turnEnds(ctx, id))
		})
	}
	return group.Wait()
}

// compare is the table of one sample per worker.
func compare(title string, results []sample, notes string) Table {
	t := Table{Title: title, Header: append(percentiles("worker"), "p50, ours = 1"), Notes: notes}
	for i, s := range results {
		t.Rows = append(t.Rows, append(append([]string{workers[i].name}, s.cells()...), ratio(s.at(0.5), results[0].at(0.5))))
	}
	return t
}
