package agent

import (
	"context"
	"encoding/json"

	"hearth/api"
)

// reference is the agent of a session as requests give it.
type reference struct {
	ID         string                          `json:"id"`
	Type       string                          `json:"type"`
	Version    api.Optional[int64]             `json:"version"`
	Model      api.Optional[json.RawMessage]   `json:"model"`
	System     api.Optional[string]            `json:"system"`
	Tools      api.Optional[[]json.RawMessage] `json:"tools"`
	MCPServers api.Optional[[]api.MCPServer]   `json:"mcp_servers"`
	Skills     api.Optional[[]api.Skill]       `json:"skills"`
}

// Resolve finds the agent a new session asks for: an id, an object with an id
// and a version, or an agent_with_overrides. An absent override inherits, null
// or an empty list clears, a value replaces as a whole.
func (s *Store) Resolve(ctx context.Context, workspaceID string, raw json.RawMessage) (api.SessionAgent, error) {
	var ref reference
	if json.Unmarshal(raw, &ref.ID) == nil && ref.ID != "" {
		ref.Type = "agent"
	} else if err := decode("agent", raw, &ref); err != nil {
		return api.SessionAgent{}, err
	}
	if ref.ID == "" {
		return api.SessionAgent{}, api.Invalid("agent", "is required: the id of an agent, or an object with type and id")
	}
	if ref.Type != "agent" && ref.Type != "agent_with_overrides" {
		return api.SessionAgent{}, api.Invalid("agent.type", "must be agent or agent_with_overrides")
	}
	if ref.Version.Given() && ref.Version.Value < 1 {
		return api.SessionAgent{}, api.Invalid("agent.version", "must be at least 1")
	}
	a, err := s.Get(ctx, workspaceID, ref.ID, ref.Version.Value)
	if err != nil {
		return api.SessionAgent{}, err
	}
	if a.ArchivedAt != nil {
		return api.SessionAgent{}, api.Invalid("agent", "agent %s is archived", a.ID).WithCode("agent_archived")
	}
	if ref.Type == "agent_with_overrides" {
		if err := ref.override(&a); err != nil {
			return api.SessionAgent{}, err
		}
	}
	out := sessionAgent(a)
	out.Multiagent, err = s.cast(ctx, workspaceID, out)
	return out, err
}

func (r reference) override(a *api.Agent) error {
	effort := a.Model.Effort
	p := Params{Model: r.Model, System: r.System, Tools: r.Tools, MCPServers: r.MCPServers, Skills: r.Skills}
	if err := p.apply(a); err != nil {
		return inAgent(err)
	}
	if err := checkReserved(a); err != nil {
		return err
	}
	a.Model.Effort = effort // an override of the model keeps the agent's effort
	if r.Tools.Set && len(a.Tools) == 0 && len(a.Skills) > 0 {
		return api.Invalid("agent.tools", "cannot be empty while the agent has skills, which are read with tools")
	}
	return nil
}
