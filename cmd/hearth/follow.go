package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/client"
)

// observed is one event of a session as it was seen.
type observed struct {
	api.Event
	raw json.RawMessage
}

// errStop is returned by a visitor that has seen enough.
var errStop = errors.New("stop following")

// follow visits every event of a session, each once, from after the event
// afterID ("" for the first) until visit returns an error; errStop ends it well. It
// survives dropped streams: on each connection it first lists what it lacks.
// Whenever it has visited all there is, it calls present, whose error ends it
// too; nil for nothing.
func follow(ctx context.Context, c *client.Client, sessionID, afterID string, visit func(observed) error, present func() error) error {
	f := follower{client: c, sessionID: sessionID, last: afterID, seen: map[string]bool{}, visit: visit, present: present}
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := f.connection(ctx)
		var wire *anthropic.Error
		switch {
		case errors.Is(err, errStop):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &wire) && wire.StatusCode >= 400 && wire.StatusCode < 500:
			return err
		case f.failed != nil:
			return f.failed
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

type follower struct {
	client    *client.Client
	sessionID string
	last      string          // id of the last event visited before following began
	seen      map[string]bool // ids visited
	visit     func(observed) error
	present   func() error
	failed    error // what visit or present returned, if not errStop
}

// connection opens the stream, catches up by listing, then reads the stream to
// its end. The order leaves no gap.
func (f *follower) connection(ctx context.Context) error {
	stream := f.client.SDK().Beta.Sessions.Events.StreamEvents(ctx, f.sessionID, anthropic.BetaSessionEventStreamParams{})
	defer stream.Close()
	if err := stream.Err(); err != nil {
		return err
	}
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	for {
		if err := f.arrive(); err != nil {
			return err
		}
		if !stream.Next() {
			return stream.Err()
		}
		if err := f.see(json.RawMessage(stream.Current().RawJSON())); err != nil {
			return err
		}
	}
}

// arrive says that all there is has been visited.
func (f *follower) arrive() error {
	if f.present == nil {
		return nil
	}
	f.failed = f.present()
	return f.failed
}

func (f *follower) catchUp(ctx context.Context) error {
	query := url.Values{"limit": {"1000"}}
	skipping := f.last != "" && len(f.seen) == 0
	for {
		var page api.Page[json.RawMessage]
		path := "v1/sessions/" + url.PathEscape(f.sessionID) + "/events?" + query.Encode()
		if err := f.client.Do(ctx, http.MethodGet, path, nil, &page); err != nil {
			return err
		}
		for _, raw := range page.Data {
			if skipping {
				var head api.EventHead
				if err := json.Unmarshal(raw, &head); err != nil {
					return err
				}
				f.seen[head.ID] = true
				skipping = head.ID != f.last
				continue
			}
			if err := f.see(raw); err != nil {
				return err
			}
		}
		if page.NextPage == nil {
			return nil
		}
		query.Set("page", *page.NextPage)
	}
}

// see visits an event unless it is known or still queued: a queued event comes
// again once it takes effect.
func (f *follower) see(raw json.RawMessage) error {
	event := observed{raw: raw}
	if err := json.Unmarshal(raw, &event.Event); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	if event.ID == "" || event.ProcessedAt == nil || f.seen[event.ID] {
		return nil
	}
	f.seen[event.ID] = true
	err := f.visit(event)
	if err != nil && !errors.Is(err, errStop) {
		f.failed = err
	}
	return err
}

// turnEnded tells whether an event is the last of a turn.
func turnEnded(e api.Event) bool {
	switch e.Type {
	case api.EventSessionStatusTerminated, api.EventSessionDeleted:
		return true
	case api.EventSessionStatusIdle:
		return e.StopReason == nil || e.StopReason.Type != api.StopRequiresAction
	}
	return false
}
