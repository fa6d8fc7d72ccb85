package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"hearth/api"
)

// follower reads a session's stream, going on where it broke off.
type follower struct {
	session string
	n       int

	mu   sync.Mutex
	seen []string // ids in the order they came; guarded by mu
	last string   // guarded by mu
}

type followers []*follower

// follow follows every fifth session, from its first event on, until ctx ends.
func (r *round) follow(ctx context.Context) (followers, error) {
	var all followers
	for n, id := range r.sessions {
		if n%5 == 0 {
			log, err := readLog(ctx, r.clients[0], id, "asc", 1)
			if err != nil {
				return nil, err
			}
			f := &follower{session: id, n: n, seen: ids(log), last: log[0].ID}
			all = append(all, f)
			go func() {
				for ctx.Err() == nil {
					f.once(ctx, r)
					r.mu.Lock()
					r.dropped++
					r.mu.Unlock()
					time.Sleep(50 * time.Millisecond)
				}
			}()
		}
	}
	return all, nil
}

// once reads until the stream breaks off.
func (f *follower) once(ctx context.Context, r *round) {
	request, err := http.NewRequestWithContext(ctx, "GET", r.urls[f.n%len(r.urls)]+"/v1/sessions/"+f.session+"/events/stream", nil)
	if err != nil {
		return
	}
	request.Header.Set("x-api-key", apiKey)
	f.mu.Lock()
	request.Header.Set("Last-Event-ID", f.last)
	f.mu.Unlock()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		var e api.Event
		if !ok || json.Unmarshal([]byte(data), &e) != nil || e.ID == "" {
			continue
		}
		f.mu.Lock()
		f.seen, f.last = append(f.seen, e.ID), e.ID
		f.mu.Unlock()
	}
}

// check wants each follower to have seen what is in the log, once and in order.
func (all followers) check(ctx context.Context, r *round) error {
	for _, f := range all {
		log, err := readLog(ctx, r.clients[0], f.session, "asc", 0)
		if err != nil {
			return err
		}
		want := ids(log)
		var got []string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			f.mu.Lock()
			got = slices.Clone(f.seen)
			f.mu.Unlock()
			if len(got) >= len(want) {
				break
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("session %s: its stream, broken off and continued, brought %d events, its log has %d:\n%s\n%s", f.session, len(got), len(want), got, want)
		}
	}
	return nil
}
