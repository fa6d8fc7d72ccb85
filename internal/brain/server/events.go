package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/brain/session"
)

// maxEvents is the largest page of events, which is also the default.
const maxEvents = 1000

func (s *server) sendEvents(r *request) (any, error) {
	var p struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	from := session.SenderWorker
	if r.principal.IsClient() {
		from = session.SenderClient
	}
	stored, err := s.Sessions.Send(r.Context(), r.PathValue("session_id"), from, p.Events)
	return map[string]any{"data": stored}, err
}

func (s *server) listEvents(r *request) (any, error) {
	q := r.params()
	order := q.choice("order", "asc", "desc")
	list := "events " + order
	f := session.EventFilter{Descending: order == "desc", Limit: int(q.number("limit", 1, maxEvents, maxEvents)), CursorSeq: q.cursor(list).Number}
	f.After, f.Before = q.span("created_at")
	for _, t := range q.list("types") {
		f.Types = append(f.Types, api.EventType(t))
	}
	if q.err != nil {
		return nil, q.err
	}
	return s.pageOfEvents(r, r.PathValue("session_id"), list, f)
}

// pageOfEvents answers with a page of a log.
func (s *server) pageOfEvents(r *request, logID, list string, f session.EventFilter) (any, error) {
	events, more, err := s.Sessions.Events(r.Context(), logID, f)
	if err != nil {
		return nil, err
	}
	out := api.Page[json.RawMessage]{Data: make([]json.RawMessage, len(events))}
	for i, e := range events {
		out.Data[i] = e.JSON
	}
	if more {
		out.NextPage = cursor{List: list, Number: events[len(events)-1].Seq}.encode()
	}
	return out, nil
}

// writeTimeout is how long a client may leave its socket unread: the official
// TypeScript worker does not read while it runs a tool.
const writeTimeout = 10 * time.Minute

func (s *server) streamEvents(r *request) (any, error) {
	return s.streamLog(r, r.PathValue("session_id"))
}

// streamLog streams a log live.
func (s *server) streamLog(r *request, logID string) (any, error) {
	q := r.params()
	wanted := q.list("event_deltas")
	for _, t := range wanted {
		if t != string(api.EventAgentMessage) && t != string(api.EventAgentThinking) {
			q.fail("event_deltas[]", "must be agent.message or agent.thinking, not %.40q", t)
		}
	}
	if q.err != nil {
		return nil, q.err
	}
	if err := checkText("Last-Event-ID", r.Header.Get("Last-Event-ID")); err != nil {
		return nil, err
	}
	sub, err := s.Sessions.Subscribe(r.Context(), logID, r.Header.Get("Last-Event-ID"))
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	stream := eventStream{w: r.w, control: http.NewResponseController(r.w), wanted: wanted, previewed: map[string]bool{}}
	// The subscription exists before the headers go out, so that a client that
	// has seen them misses nothing.
	if err := stream.open(); err != nil {
		return written, nil
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.Stopping, cancel)()
	checked := time.Now()
	for {
		// Nobody goes on reading with a key that has been revoked, or with the
		// token of a claim that is over.
		if time.Since(checked) >= s.PingInterval {
			if s.refused(r) {
				return written, nil
			}
			checked = time.Now()
		}
		waiting, stop := context.WithTimeout(ctx, s.PingInterval)
		events, err := sub.Next(waiting)
		stop()
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return written, nil
		case errors.Is(err, context.DeadlineExceeded):
			err = stream.ping()
		case err != nil:
			return nil, err
		default:
			err = stream.send(events)
		}
		if err != nil {
			return written, nil // the client is gone
		}
	}
}

// refused tells whether the credential of a request under way is no longer good.
func (s *server) refused(r *request) bool {
	_, err := s.Keys.Authenticate(r.Request)
	var refusal *api.Error
	return errors.As(err, &refusal) && refusal.Status < 500
}

// eventStream writes server-sent events. It is for one goroutine.
type eventStream struct {
	w         http.ResponseWriter
	control   *http.ResponseController
	wanted    []string        // types of which previews are sent
	previewed map[string]bool // ids of the events previewed and not yet concluded
	concluded []string        // ids of the latest events of wanted types sent
}

// maxConcluded is how many events a preview may come late by and still be
// known to be late.
const maxConcluded = 64

func (e *eventStream) open() error {
	e.w.Header().Set("Content-Type", "text/event-stream")
	e.w.Header().Set("Cache-Control", "no-store")
	e.w.Header().Set("X-Accel-Buffering", "no")
	e.w.WriteHeader(http.StatusOK)
	return e.control.Flush()
}

func (e *eventStream) ping() error { return e.write("event: ping\ndata: {\"type\":\"ping\"}\n\n") }

func (e *eventStream) send(events []session.StoredEvent) error {
	for _, event := range events {
		var err error
		if event.Seq == 0 {
			err = e.preview(event.JSON)
		} else {
			e.conclude(event)
			_, err = fmt.Fprintf(e.w, "event: %s\nid: %s\ndata: %s\n\n", event.Type, event.ID, event.JSON)
		}
		if err != nil {
			return err
		}
	}
	return e.flush()
}

// conclude remembers that an event has come, for its previews may come later:
// they are not told in order with the log.
func (e *eventStream) conclude(event session.StoredEvent) {
	delete(e.previewed, event.ID)
	if !slices.Contains(e.wanted, string(event.Type)) {
		return
	}
	if len(e.concluded) == maxConcluded {
		e.concluded = slices.Delete(e.concluded, 0, 1)
	}
	e.concluded = append(e.concluded, event.ID)
}

// preview sends a preview if its type is wanted and its event has not come yet;
// deltas only of an event whose start this connection has seen.
func (e *eventStream) preview(raw json.RawMessage) error {
	var p struct {
		Type    api.EventType    `json:"type"`
		Event   api.PreviewEvent `json:"event"`
		EventID string           `json:"event_id"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil // previews are best effort
	}
	switch {
	case p.Type == api.EventStart && slices.Contains(e.wanted, string(p.Event.Type)) && !e.previewed[p.Event.ID] && !slices.Contains(e.concluded, p.Event.ID):
		e.previewed[p.Event.ID] = true
	case p.Type == api.EventDelta && e.previewed[p.EventID]:
	default:
		return nil
	}
	_, err := fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", p.Type, raw)
	return err
}

func (e *eventStream) write(text string) error {
	if _, err := io.WriteString(e.w, text); err != nil {
		return err
	}
	return e.flush()
}

func (e *eventStream) flush() error {
	if err := e.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return e.control.Flush()
}
