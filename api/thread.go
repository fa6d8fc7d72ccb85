package api

import (
	"encoding/json"
	"time"
)

// The types of an agent's multiagent configuration and of the entries of its roster.
const (
	MultiagentCoordinator = "coordinator"
	Multiagent20261001    = "multiagent_20261001"
	RosterAgent           = "agent"
	RosterSelf            = "self"
	RosterAdvisor         = "advisor"
)

// AdvisorName is the name of the thread of an advisor.
const AdvisorName = "anthropic.advisor"

// The tools of a coordinator, which the brain answers.
const (
	ToolListAgents  = "list_agents"
	ToolSendToAgent = "send_to_agent"
)

// Multiagent is the roster of an agent that coordinates others: a
// RosterReference or an Advisor in each place. It has two forms on the wire, by its
// type.
type Multiagent struct {
	Type   string            `json:"type"`
	Agents []json.RawMessage `json:"agents"`
}

// What the parts of a Multiagent20261001 are.
const (
	PartEnabled  = "enabled"
	PartDisabled = "disabled"
)

// MultiagentParts is a Multiagent20261001 on the wire. What is left out of a request
// is nil.
type MultiagentParts struct {
	Type      string          `json:"type"`
	Advisor   *MultiagentPart `json:"advisor"`
	Subagents *MultiagentPart `json:"subagents"`
	Workflows *MultiagentPart `json:"workflows"`
}

// MultiagentPart is a part of it that can be enabled.
type MultiagentPart struct {
	Type             string            `json:"type"`                        // PartEnabled or PartDisabled
	Model            string            `json:"model,omitempty"`             // of an advisor
	InlineAgents     *MultiagentPart   `json:"inline_agents,omitempty"`     // of subagents
	PredefinedAgents []json.RawMessage `json:"predefined_agents,omitempty"` // likewise
}

// MarshalJSON implements json.Marshaler.
func (m Multiagent) MarshalJSON() ([]byte, error) {
	if m.Type != Multiagent20261001 {
		type plain Multiagent
		return json.Marshal(plain(m))
	}
	off := func() *MultiagentPart { return &MultiagentPart{Type: PartDisabled} }
	parts := MultiagentParts{Type: m.Type, Advisor: off(), Subagents: off(), Workflows: off()}
	for _, raw := range m.Agents {
		var one struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, err
		}
		if one.Type != RosterAdvisor {
			parts.Subagents.PredefinedAgents = append(parts.Subagents.PredefinedAgents, raw)
			continue
		}
		if err := json.Unmarshal(raw, parts.Advisor); err != nil {
			return nil, err
		}
		parts.Advisor.Type = PartEnabled
	}
	if len(parts.Subagents.PredefinedAgents) > 0 {
		parts.Subagents.Type, parts.Subagents.InlineAgents = PartEnabled, off()
	}
	return json.Marshal(parts)
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *Multiagent) UnmarshalJSON(raw []byte) error {
	type plain Multiagent
	if err := json.Unmarshal(raw, (*plain)(m)); err != nil || m.Type != Multiagent20261001 {
		return err
	}
	var parts MultiagentParts
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	if parts.Subagents != nil {
		m.Agents = parts.Subagents.PredefinedAgents
	}
	if parts.Advisor == nil || parts.Advisor.Type != PartEnabled {
		return nil
	}
	advisor, err := json.Marshal(Advisor{Type: RosterAdvisor, Model: parts.Advisor.Model})
	m.Agents = append(m.Agents, advisor)
	return err
}

// RosterReference is an agent of a roster, pinned to a version.
type RosterReference struct {
	ID      string `json:"id"`
	Type    string `json:"type"` // "agent"
	Version int64  `json:"version"`
}

// Advisor is a model that a coordinator may ask for advice.
type Advisor struct {
	Model string `json:"model"`
	Type  string `json:"type"` // "advisor"
}

// ThreadAgent is the agent of a thread as its session holds it. It has no
// roster: threads of threads do not exist.
type ThreadAgent struct {
	ID                string          `json:"id"`
	Type              string          `json:"type"` // "agent"
	Version           int64           `json:"version"`
	Name              string          `json:"name"`
	Description       *string         `json:"description"`
	Model             ModelConfig     `json:"model"`
	System            *string         `json:"system"`
	Tools             []Tool          `json:"tools"`
	MCPServers        []MCPServer     `json:"mcp_servers"`
	Skills            []Skill         `json:"skills"`
	ExecutionIdentity json.RawMessage `json:"execution_identity"`
}

// Thread is the agent without its roster, as the agent of a thread.
func (a SessionAgent) Thread() ThreadAgent {
	return ThreadAgent{
		ID: a.ID, Type: a.Type, Version: a.Version, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System,
		Tools: a.Tools, MCPServers: a.MCPServers, Skills: a.Skills, ExecutionIdentity: a.ExecutionIdentity,
	}
}

// Session is the agent of a thread as that of a session without a roster.
func (a ThreadAgent) Session() SessionAgent {
	return SessionAgent{
		ID: a.ID, Type: a.Type, Version: a.Version, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System,
		Tools: a.Tools, MCPServers: a.MCPServers, Skills: a.Skills, ExecutionIdentity: a.ExecutionIdentity, Multiagent: json.RawMessage("null"),
	}
}

// Thread is one line of thought of a session: the primary one, or that of an
// agent the coordinator has called on.
type Thread struct {
	ID             string          `json:"id"`
	Type           string          `json:"type"` // "session_thread"
	SessionID      string          `json:"session_id"`
	ParentThreadID *string         `json:"parent_thread_id"` // null for the primary thread
	Agent          json.RawMessage `json:"agent"`            // a ThreadAgent or an Advisor
	Status         SessionStatus   `json:"status"`
	Stats          *ThreadStats    `json:"stats"` // null until the status first changes
	Usage          *SessionUsage   `json:"usage"` // null until the thread is first idle
	WorkflowRunID  *string         `json:"workflow_run_id"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	ArchivedAt     *time.Time      `json:"archived_at"`
}

// ThreadStats are the times of a thread, in seconds.
type ThreadStats struct {
	ActiveSeconds   float64 `json:"active_seconds"`
	DurationSeconds float64 `json:"duration_seconds"`
	StartupSeconds  float64 `json:"startup_seconds"` // from its creation until it first ran
}

// ThreadCreatedEvent is session.thread_created.
type ThreadCreatedEvent struct {
	EventHead
	AgentName       string  `json:"agent_name"`
	SessionThreadID string  `json:"session_thread_id"`
	WorkflowRunID   *string `json:"workflow_run_id"`
}

// ThreadMessageSentEvent is agent.thread_message_sent. The name is absent when
// the message goes to the primary thread.
type ThreadMessageSentEvent struct {
	EventHead
	Content           []Block `json:"content"`
	ToSessionThreadID string  `json:"to_session_thread_id"`
	ToAgentName       string  `json:"to_agent_name,omitempty"`
}

// ThreadMessageReceivedEvent is agent.thread_message_received. The name is
// absent when the message comes from the primary thread.
type ThreadMessageReceivedEvent struct {
	EventHead
	Content             []Block `json:"content"`
	FromSessionThreadID string  `json:"from_session_thread_id"`
	FromAgentName       string  `json:"from_agent_name,omitempty"`
}
