package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"hearth/api"
)

// sighting is what following a session's events brings: an event, or word that
// all there were at the time of connecting have been seen.
type sighting struct {
	event    api.Event
	caughtUp bool
}

// follow sends the session's events to out until the session or ctx ends: on
// each connection first the whole history, then what comes. It returns an error
// when the server refuses.
func (a *activation) follow(ctx context.Context, out chan<- sighting) error {
	for failures := 0; ; {
		began := time.Now()
		err := a.connection(ctx, out)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !transient(err) {
			return fmt.Errorf("follow the session's events: %w", err)
		}
		if time.Since(began) > 5*time.Second {
			failures = 0
		}
		failures++
		pause := backoff(failures, 500*time.Millisecond, 10*time.Second, err)
		a.log.Info("the event stream has ended; connecting again", "error", err, "next_try_in", pause.Round(time.Millisecond))
		if sleep(ctx, pause) != nil {
			return nil
		}
	}
}

// silence is how long a stream may bring nothing, not even a ping.
const silence = 90 * time.Second

var errSilent = errors.New("the event stream went silent")

// connection opens the stream, reads the history, then the stream to its end.
// In this order nothing falls between the two.
func (a *activation) connection(ctx context.Context, out chan<- sighting) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	response, err := a.wire.open(ctx, "GET", sessionPath(a.item.SessionID)+"/events/stream", nil, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := a.history(ctx, out, func() { watchdog.Reset(silence) }); err != nil {
		// Half a history may hold a call without its answer, so nothing is run
		// before a whole one has been read, on the next connection.
		return fmt.Errorf("list the session's events: %w", err)
	}
	if !send(ctx, out, sighting{caughtUp: true}) {
		return ctx.Err()
	}
	stream := sseReader{r: bufio.NewReaderSize(response.Body, 64<<10)}
	for {
		name, data, err := stream.next()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return err
		}
		watchdog.Reset(silence)
		switch name {
		case "", "ping":
			continue
		case "error":
			return fmt.Errorf("the event stream reports: %.200s", data)
		}
		e, err := decodeEvent(data)
		if err != nil {
			return err
		}
		if !send(ctx, out, sighting{event: e}) {
			return ctx.Err()
		}
	}
}

// decodeEvent decodes an event: in full when the worker acts on its type, else
// only the head, because other types may give the same fields another shape.
func decodeEvent(raw []byte) (e api.Event, err error) {
	if err := json.Unmarshal(raw, &e.EventHead); err != nil {
		return e, fmt.Errorf("decode an event: %w", err)
	}
	switch e.Type {
	case api.EventAgentToolUse, api.EventAgentToolResult, api.EventUserToolResult, api.EventUserToolConfirmation,
		api.EventUserInterrupt, api.EventSessionStatusIdle:
		if err := json.Unmarshal(raw, &e); err != nil {
			return e, fmt.Errorf("decode event %s: %w", e.ID, err)
		}
	}
	return e, nil
}

func send(ctx context.Context, out chan<- sighting, s sighting) bool {
	select {
	case out <- s:
		return true
	case <-ctx.Done():
		return false
	}
}

// history lists every event there is, oldest first, and calls read after each page.
func (a *activation) history(ctx context.Context, out chan<- sighting, read func()) error {
	query := url.Values{"limit": {"1000"}, "order": {"asc"}}
	for {
		var page api.Page[json.RawMessage]
		if err := a.wire.try(ctx, "GET", sessionPath(a.item.SessionID)+"/events", query, nil, &page); err != nil {
			return err
		}
		read()
		for _, raw := range page.Data {
			e, err := decodeEvent(raw)
			if err != nil {
				return err
			}
			if !send(ctx, out, sighting{event: e}) {
				return ctx.Err()
			}
		}
		if page.NextPage == nil || *page.NextPage == "" || *page.NextPage == query.Get("page") {
			return nil
		}
		query.Set("page", *page.NextPage)
	}
}

// sseReader reads server-sent events.
type sseReader struct{ r *bufio.Reader }

// maxEvent bounds one event of a stream, in bytes.
const maxEvent = 32 << 20

// next returns the next event's name and data.
func (s *sseReader) next() (name string, data []byte, err error) {
	for {
		line, err := s.line()
		if err != nil {
			return "", nil, err
		}
		if len(line) == 0 {
			if len(data) > 0 {
				return name, data, nil
			}
			name = ""
			continue
		}
		field, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			if len(data) > 0 {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
		if len(data) > maxEvent {
			return "", nil, fmt.Errorf("an event has more than %d bytes", maxEvent)
		}
	}
}

func (s *sseReader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := s.r.ReadSlice('\n')
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) && len(line) <= maxEvent {
			continue
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		return []byte(strings.TrimRight(string(line), "\r\n")), nil
	}
}
