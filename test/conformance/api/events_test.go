package api

import (
	"slices"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
)

// TestEvents plays an application and a worker with the plain methods: what is
// sent is on the stream and in the list, in the same order.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, g, events := t.Context(), s.ground(), s.SDK.Beta.Sessions.Events
		session := s.session(g, "")
		stream := events.StreamEvents(ctx, session.ID, anthropic.BetaSessionEventStreamParams{EventDeltas: []anthropic.BetaManagedAgentsDeltaType{anthropic.BetaManagedAgentsDeltaTypeAgentMessage}})
		defer stream.Close()
		must(t, stream.Err())
		sent, err := events.Send(ctx, session.ID, anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{{OfUserMessage: said("$ true")}}})
		must(t, err)
		if len(sent.Data) != 1 || sent.Data[0].Type != string(api.EventUserMessage) || sent.Data[0].ProcessedAt.IsZero() {
			t.Fatalf("sent %s", sent.RawJSON())
		}
		asWorker := s.worker(g.key)
		var streamed []string
		for ended := false; !ended; {
			if !stream.Next() {
				t.Fatalf("the stream ended: %v", stream.Err())
			}
			switch e := stream.Current(); api.EventType(e.Type) {
			case api.EventStart, api.EventDelta: // best effort, and never listed
			case api.EventSessionStatusIdle:
				streamed = append(streamed, e.ID)
				if ids := e.AsSessionStatusIdle().StopReason.EventIDs; len(ids) == 1 {
					_, err := asWorker.Beta.Sessions.Events.Send(ctx, session.ID, anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{{
						OfUserToolResult: &anthropic.BetaManagedAgentsUserToolResultEventParams{Type: anthropic.BetaManagedAgentsUserToolResultEventParamsTypeUserToolResult, ToolUseID: ids[0]},
					}}})
					must(t, err)
				} else {
					ended = true
				}
			default:
				streamed = append(streamed, e.ID)
			}
		}
		var listed []string
		all := events.ListAutoPaging(ctx, session.ID, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(3), Order: anthropic.BetaSessionEventListParamsOrderAsc})
		for all.Next() {
			listed = append(listed, all.Current().ID)
		}
		if all.Err() != nil || !slices.Equal(listed, streamed) {
			t.Errorf("streamed %v, listed %v: %v", streamed, listed, all.Err())
		}
		few, err := events.List(ctx, session.ID, anthropic.BetaSessionEventListParams{Types: []anthropic.BetaManagedAgentsSessionEventType{anthropic.BetaManagedAgentsSessionEventTypeUserToolResult}})
		if err != nil || len(few.Data) != 1 {
			t.Errorf("%d results: %v", len(few.Data), err)
		}
		// The stream of a session that is deleted ends with word of it.
		_, err = s.SDK.Beta.Sessions.Delete(ctx, session.ID, anthropic.BetaSessionDeleteParams{})
		must(t, err)
		last := ""
		for stream.Next() {
			last = stream.Current().Type
		}
		if last != string(api.EventSessionDeleted) || stream.Err() != nil {
			t.Errorf("the stream ends with %s: %v", last, stream.Err())
		}
		s.typeScript("events.mjs", s.ground().env()...)
	})
}
