package session

import (
	"encoding/json"
	"fmt"

	"hearth/api"
)

// told says which events of the log are told outside, and as what. The later
// names of a status and the earlier ones are both told: who listens asks for one.
var told = map[api.EventType][]string{
	api.EventSessionStatusRunning:     {"session.status_run_started", "session.running"},
	api.EventSessionStatusIdle:        {"session.status_idled", "session.idled"},
	api.EventSessionStatusRescheduled: {"session.status_rescheduled"},
	api.EventSessionStatusTerminated:  {"session.status_terminated"},
	api.EventSessionUpdated:           {"session.updated"},
	api.EventSessionDeleted:           {"session.deleted"},
	api.EventThreadStatusIdle:         {"session.thread_idled"},
	api.EventThreadStatusTerminated:   {"session.thread_terminated"},
	api.EventThreadCreated:            {"session.thread_created"},
	"span.outcome_evaluation_end":     {"session.outcome_evaluation_ended"},
}

// toldStops are told besides, of a session that becomes idle for them.
var toldStops = map[string]string{
	api.StopRequiresAction: "session.requires_action",
	"budget_reached":       "session.budget_reached",
}

// tell notes what the outbox is to be told of an event. What happens in threads
// is repeated in the session's log, and told of there.
func (m *mutation) tell(t api.EventType, raw json.RawMessage) error {
	names := told[t]
	if len(names) == 0 || !m.t.primary() {
		return nil
	}
	var about struct {
		SessionThreadID string         `json:"session_thread_id"`
		StopReason      api.StopReason `json:"stop_reason"`
	}
	if err := json.Unmarshal(raw, &about); err != nil {
		return fmt.Errorf("decode %s: %w", t, err)
	}
	for _, name := range names {
		one := api.Happened(name, m.id)
		one.SessionThreadID = about.SessionThreadID
		m.happened = append(m.happened, one)
	}
	if name := toldStops[about.StopReason.Type]; name != "" && t == api.EventSessionStatusIdle {
		m.happened = append(m.happened, api.Happened(name, m.id))
	}
	return nil
}
