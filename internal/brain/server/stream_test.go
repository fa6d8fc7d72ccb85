package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hearth/api"
)

// stream is an open event stream, read by the test.
type stream struct {
	*brain
	response *http.Response
	lines    *bufio.Reader
	close    func()
}

// frame is one server-sent event.
type frame struct {
	event, id string
	data      []byte
}

// stream opens a stream; query and lastID may be empty.
func (b *brain) stream(credential, sessionID, query, lastID string) *stream {
	b.t.Helper()
	return b.streamOf(credential, "/v1/sessions/"+sessionID+"/events/stream"+query, lastID)
}

func (b *brain) streamOf(credential, path, lastID string) *stream {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	b.t.Cleanup(cancel)
	r := b.request(ctx, credential, "GET", path, nil)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	response, err := b.http.Do(r)
	must(b.t, err)
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" {
		b.t.Fatalf("the stream is %d of type %s", response.StatusCode, kind)
	}
	return &stream{b, response, bufio.NewReader(response.Body), func() { cancel(); response.Body.Close() }}
}

// frame reads what comes next, pings included; io.EOF at a proper end.
func (s *stream) frame() (frame, error) {
	var f frame
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return f, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "event":
			f.event = value
		case "id":
			f.id = value
		case "data":
			f.data = []byte(value)
		case "":
			return f, nil
		default:
			s.t.Errorf("a line of a stream: %q", line)
		}
	}
}

// next reads the next frame that is no ping; false at the end of the stream.
func (s *stream) next() (frame, bool) {
	s.t.Helper()
	for {
		f, err := s.frame()
		if errors.Is(err, io.EOF) && f.event == "" {
			return f, false
		}
		must(s.t, err)
		var head struct{ Type, ID string }
		must(s.t, json.Unmarshal(f.data, &head))
		if f.event != head.Type {
			s.t.Errorf("the event is %q, its JSON %q", f.event, head.Type)
		}
		if f.event == "ping" {
			continue
		}
		if preview := head.ID == ""; !preview && f.id != head.ID {
			s.t.Errorf("the id is %q, its JSON has %q", f.id, head.ID)
		}
		return f, true
	}
}

// until reads up to and including the first frame that is the last wanted.
func (s *stream) until(what string, last func(frame) bool) []frame {
	s.t.Helper()
	var all []frame
	for {
		f, more := s.next()
		if !more {
			s.t.Fatalf("the stream ended before %s", what)
		}
		if all = append(all, f); last(f) {
			return all
		}
	}
}

func idle(f frame) bool { return f.event == string(api.EventSessionStatusIdle) }

func idsOf(frames []frame) (ids []string) {
	for _, f := range frames {
		ids = append(ids, f.id)
	}
	return ids
}

// listed is the ids of a session's log.
func (b *brain) listed(sessionID string) (ids []string) {
	b.t.Helper()
	for _, e := range ok[api.Page[api.Event]](b, b.key, "GET", "/v1/sessions/"+sessionID+"/events", nil).Data {
		ids = append(ids, e.ID)
	}
	return ids
}

func (b *brain) tell(sessionID string, events ...object) []api.Event {
	b.t.Helper()
	return ok[api.Page[api.Event]](b, b.key, "POST", "/v1/sessions/"+sessionID+"/events", object{"events": events}).Data
}

// TestStreamIsTheLog: what a stream brings is what the list holds, in its order.
func TestStreamIsTheLog(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.session(b.agent().ID, b.environment().ID)
		live := b.stream(b.key, s.ID, "", "")
		for name, want := range map[string]string{"Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
			if got := live.response.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		b.tell(s.ID, message("tool ask {}"))
		frames := live.until("the call", idle)
		var stop struct {
			StopReason api.StopReason `json:"stop_reason"`
		}
		must(t, json.Unmarshal(frames[len(frames)-1].data, &stop))
		b.tell(s.ID, object{"type": "user.custom_tool_result", "custom_tool_use_id": stop.StopReason.EventIDs[0]})
		frames = append(frames, live.until("the end of the turn", idle)...)
		if got, want := idsOf(frames), b.listed(s.ID); !slices.Equal(got, want) {
			t.Errorf("streamed %v, listed %v", got, want)
		}
	})
}

// TestStreamIsKeptAlive with pings, from the beginning.
func TestStreamIsKeptAlive(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.session(b.agent().ID, b.environment().ID)
		live := b.stream(b.key, s.ID, "", "")
		for range 3 {
			f, err := live.frame()
			if err != nil || f.event != "ping" || string(f.data) != `{"type":"ping"}` || f.id != "" {
				t.Fatalf("an idle stream brings %+v, %v", f, err)
			}
		}
	})
}

// TestLastEventID: a stream continues after the event named; after one that
// nobody knows it begins with what is new.
func TestLastEventID(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.session(b.agent().ID, b.environment().ID, "tool ask {}")
		b.awaitIdle(s.ID)
		log := b.listed(s.ID)
		for i, id := range log[:len(log)-1] {
			live := b.stream(b.key, s.ID, "", id)
			got := idsOf(live.until("the end of the log", func(f frame) bool { return f.id == log[len(log)-1] }))
			if !slices.Equal(got, log[i+1:]) {
				t.Errorf("after event %d of %v came %v", i, log, got)
			}
			live.close()
		}
		for _, unknown := range []string{log[len(log)-1], "sevt_unknown"} {
			live := b.stream(b.key, s.ID, "", unknown)
			sent := b.tell(s.ID, message("more"))
			if f, _ := live.next(); f.id != sent[0].ID {
				t.Errorf("after %s came %s, want %s", unknown, f.id, sent[0].ID)
			}
			live.close()
		}
	})
}

// TestPreviews come only where they are asked for: the start, then the text
// piece by piece, and nothing once the whole event has come.
func TestPreviews(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.session(b.agent().ID, b.environment().ID)
		asking, other, plain := b.stream(b.key, s.ID, "?event_deltas[]=agent.message", ""), b.stream(b.key, s.ID, "?event_deltas[]=agent.thinking", ""), b.stream(b.key, s.ID, "", "")
		preview := func(id string) {
			b.sessions.Preview(b.ctx, s.ID, api.StartPreview{Type: api.EventStart, Event: api.PreviewEvent{ID: id, Type: api.EventAgentMessage}})
			delta := api.ContentDelta{Type: "content_delta", Content: api.TextBlock("a piece")}
			b.sessions.Preview(b.ctx, s.ID, api.DeltaPreview{Type: api.EventDelta, EventID: id, Delta: delta})
		}
		preview("sevt_one")
		for _, want := range []api.EventType{api.EventStart, api.EventDelta} {
			if f, _ := asking.next(); f.event != string(want) || !strings.Contains(string(f.data), "sevt_one") {
				t.Errorf("the preview is %s %s, want %s", f.event, f.data, want)
			}
		}
		b.tell(s.ID, message("what are you?"))
		whole := asking.turn()
		preview(whole) // too late
		b.tell(s.ID, message("what are you?"))
		asking.turn()
		for _, quiet := range []*stream{other, plain} {
			for _, f := range slices.Concat(quiet.until("the end of the first turn", idle), quiet.until("the end of the second turn", idle)) {
				if f.id == "" {
					t.Errorf("a preview nobody asked for: %s %s", f.event, f.data)
				}
			}
		}
	})
}

// turn reads a turn with previews in it, checks their order, and returns the id
// of the agent's message.
func (s *stream) turn() (messageID string) {
	s.t.Helper()
	pieces := map[string]string{}
	for _, f := range s.until("the end of the turn", idle) {
		var e struct {
			Event   api.PreviewEvent `json:"event"`
			EventID string           `json:"event_id"`
			Delta   api.ContentDelta `json:"delta"`
			Content []api.Block      `json:"content"`
		}
		must(s.t, json.Unmarshal(f.data, &e))
		_, started := pieces[e.EventID]
		switch kind := api.EventType(f.event); {
		case kind == api.EventStart:
			pieces[e.Event.ID] = ""
		case kind == api.EventDelta && !started:
			s.t.Errorf("a delta of %s, which was not started", e.EventID)
		case kind == api.EventDelta:
			pieces[e.EventID] += e.Delta.Content.Text
		case kind == api.EventAgentMessage:
			if messageID = f.id; !strings.HasPrefix(e.Content[0].Text, pieces[f.id]) {
				s.t.Errorf("pieces %q of %q", pieces[f.id], e.Content[0].Text)
			}
			delete(pieces, f.id)
		}
	}
	if len(pieces) > 0 {
		s.t.Errorf("previews that no event concluded: %v", pieces)
	}
	return messageID
}

// TestStreamsEnd with the last event of their session, and a stream opened
// later brings it too, or is a 404.
func TestStreamsEnd(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		ends := func(live *stream, want api.EventType) {
			t.Helper()
			live.until(string(want), func(f frame) bool { return f.event == string(want) })
			if f, more := live.next(); more {
				t.Errorf("after %s came %+v", want, f)
			}
		}
		archived, deleted := b.session(agent.ID, env.ID), b.session(agent.ID, env.ID)
		live := b.stream(b.key, archived.ID, "", "")
		ok[api.Session](b, b.key, "POST", "/v1/sessions/"+archived.ID+"/archive", nil)
		ends(live, api.EventSessionStatusTerminated)
		ends(b.stream(b.key, archived.ID, "", ""), api.EventSessionStatusTerminated)

		live = b.stream(b.key, deleted.ID, "", "")
		ok[api.Deleted](b, b.key, "DELETE", "/v1/sessions/"+deleted.ID, nil)
		ends(live, api.EventSessionDeleted)
		if a := b.do(b.key, "GET", "/v1/sessions/"+deleted.ID+"/events/stream", nil); a.status != 404 {
			t.Errorf("the stream of a deleted session: %d", a.status)
		}
	})
}

// TestSlowReader: who does not read for a while, more than any buffer holds,
// misses nothing.
func TestSlowReader(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.session(b.agent().ID, b.environment().ID, "tool ask {}")
		b.awaitIdle(s.ID)
		live := b.stream(b.key, s.ID, "", "")
		var sent []string
		for range 12 {
			for _, e := range b.tell(s.ID, slices.Repeat([]object{message(strings.Repeat("x", 200_000))}, 5)...) {
				sent = append(sent, e.ID)
			}
		}
		got := idsOf(live.until("the last message", func(f frame) bool { return f.id == sent[len(sent)-1] }))
		if !slices.Equal(got, sent) {
			t.Errorf("%d of %d events came", len(got), len(sent))
		}
	})
}

// TestRevocationEndsStreams: a key that is revoked, and a token whose claim is
// over, read no further.
func TestRevocationEndsStreams(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		byToken, byKey := b.stream(s.token, s.session.ID, "", ""), b.stream(s.key.Key, s.session.ID, "", "")
		ok[api.Work](b, b.key, "POST", s.item()+"/stop", object{"force": true})
		// What both may see is that the worker has gone.
		gone := func(stream *stream) bool {
			f, more := stream.next()
			return more && f.event == string(api.EventSessionError)
		}
		if gone(byToken) {
			if f, more := byToken.next(); more {
				t.Errorf("a token whose claim is over reads %+v", f)
			}
		}
		if !gone(byKey) {
			t.Error("a key that is valid does not read on")
		}
		ok[api.EnvironmentKey](b, b.key, "POST", s.keys()+"/"+s.key.ID+"/revoke", nil)
		if f, more := byKey.next(); more {
			t.Errorf("a revoked key reads %+v", f)
		}
	})
}

// TestShutdown ends what would otherwise be waited for, and tells whoever asks
// whether the server is ready.
func TestShutdown(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		live := b.stream(b.key, s.session.ID, "", "")
		b.stop()
		if f, more := live.next(); more {
			t.Errorf("a stream at a shutdown brings %+v", f)
		}
		if w := b.poll(s.key.Key, s.env.ID, "?block_ms=999"); w != nil {
			t.Errorf("a poll at a shutdown brings %+v", w)
		}
		response, err := http.Get(b.url + "/readyz")
		must(t, err)
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("at a shutdown the server is ready: %d", response.StatusCode)
		}
	})
}
