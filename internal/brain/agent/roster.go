package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"hearth/api"
	"hearth/internal/db"
)

// maxRoster is how many agents a roster may hold.
const maxRoster = 20

// rosterEntry is an entry of a roster as requests give it.
type rosterEntry struct {
	Type    string              `json:"type"`
	ID      string              `json:"id"`
	Version api.Optional[int64] `json:"version"`
	Model   string              `json:"model"`

	field string // where it is in the request
}

// applyRoster sets the roster an agent is to have. Who is on it is resolved to
// versions now, so that the coordinator stays what it was when it was saved.
func (p Params) applyRoster(ctx context.Context, tx db.Tx, workspaceID string, a *api.Agent) error {
	if p.Multiagent.Given() {
		kind, roster, err := parseRoster(p.Multiagent.Value)
		if err != nil {
			return err
		}
		held := api.Multiagent{Type: kind}
		seen := map[string]bool{}
		for _, entry := range roster {
			who, pinned, err := entry.pin(ctx, tx, workspaceID, a)
			if err != nil {
				return err
			}
			if seen[who] {
				return api.Invalid(entry.field, "%s is on the roster twice", who)
			}
			seen[who] = true
			held.Agents = append(held.Agents, pinned)
		}
		raw, err := json.Marshal(held)
		if err != nil {
			return err
		}
		a.Multiagent = raw
	}
	return checkReserved(a)
}

// checkReserved keeps the names of a coordinator's own tools free.
func checkReserved(a *api.Agent) error {
	if string(a.Multiagent) == "null" {
		return nil
	}
	for i, t := range a.Tools {
		if t.Type == api.ToolTypeCustom && (t.Name == api.ToolListAgents || t.Name == api.ToolSendToAgent) {
			return api.Invalid(fmt.Sprintf("tools[%d].name", i), "%s is the name of a tool that agents with a roster have", t.Name).WithCode("tool_name_conflict")
		}
	}
	return nil
}

// parseRoster reads a roster in either of its forms.
func parseRoster(raw json.RawMessage) (kind string, roster []rosterEntry, err error) {
	var p struct {
		Type   string            `json:"type"`
		Agents []json.RawMessage `json:"agents"`
	}
	if err := decode("multiagent", raw, &p); err != nil {
		return "", nil, err
	}
	switch p.Type {
	case api.MultiagentCoordinator:
		roster, err = parseEntries("multiagent.agents", p.Agents)
	case api.Multiagent20261001:
		roster, err = parseParts(raw)
	default:
		err = api.Invalid("multiagent.type", "must be %s or %s, not %.80q", api.MultiagentCoordinator, api.Multiagent20261001, p.Type)
	}
	return p.Type, roster, err
}

func parseEntries(path string, agents []json.RawMessage) ([]rosterEntry, error) {
	if n := len(agents); n == 0 || n > maxRoster {
		return nil, api.Invalid(path, "holds %d agents, 1 to %d are allowed", n, maxRoster)
	}
	entries := make([]rosterEntry, len(agents))
	for i, one := range agents {
		field := fmt.Sprintf("%s[%d]", path, i)
		entries[i].field = field
		if json.Unmarshal(one, &entries[i].ID) == nil && entries[i].ID != "" {
			entries[i].Type = api.RosterAgent
			continue
		}
		if err := decode(field, one, &entries[i]); err != nil {
			return nil, err
		}
		if err := entries[i].check(); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// enabled tells whether a part is there and enabled.
func enabled(field string, p *api.MultiagentPart) (bool, error) {
	switch {
	case p == nil || p.Type == api.PartDisabled:
		return false, nil
	case p.Type == api.PartEnabled:
		return true, nil
	}
	return false, api.Invalid(field+".type", "must be %s or %s", api.PartEnabled, api.PartDisabled)
}

// parseParts reads a roster of the newer form. What this server cannot do must be
// disabled there.
func parseParts(raw json.RawMessage) (roster []rosterEntry, err error) {
	var p api.MultiagentParts
	if err := decode("multiagent", raw, &p); err != nil {
		return nil, err
	}
	if on, err := enabled("multiagent.workflows", p.Workflows); on || err != nil {
		return nil, cmp.Or(err, error(api.Invalid("multiagent.workflows.type", "must be disabled; this server runs no workflows")))
	}
	on, err := enabled("multiagent.subagents", p.Subagents)
	if err != nil {
		return nil, err
	}
	if on {
		const field = "multiagent.subagents.inline_agents"
		if inline, err := enabled(field, p.Subagents.InlineAgents); inline || err != nil {
			return nil, cmp.Or(err, error(api.Invalid(field+".type", "must be disabled; this server knows no agents that are defined inline")))
		}
		if roster, err = parseEntries("multiagent.subagents.predefined_agents", p.Subagents.PredefinedAgents); err != nil {
			return nil, err
		}
		for _, entry := range roster {
			if entry.Type == api.RosterAdvisor {
				return nil, api.Invalid(entry.field+".type", "must be one of agent, self; an advisor goes into multiagent.advisor")
			}
		}
	}
	if on, err = enabled("multiagent.advisor", p.Advisor); err != nil || !on {
		return roster, err
	}
	_, err = checkModel("multiagent.advisor.model", api.ModelConfig{ID: p.Advisor.Model})
	return append(roster, rosterEntry{Type: api.RosterAdvisor, Model: p.Advisor.Model, field: "multiagent.advisor"}), err
}

// check checks an entry for itself.
func (e rosterEntry) check() error {
	switch e.Type {
	case api.RosterAdvisor:
		_, err := checkModel(e.field+".model", api.ModelConfig{ID: e.Model})
		return err
	case api.RosterSelf:
	case api.RosterAgent:
		if e.ID == "" {
			return api.Invalid(e.field+".id", "is required")
		}
	default:
		return api.Invalid(e.field+".type", "must be one of agent, self, advisor")
	}
	if e.Version.Given() && e.Version.Value < 1 {
		return api.Invalid(e.field+".version", "must be at least 1")
	}
	return nil
}

// pin resolves an entry of the roster of a, and tells who it is, so that nobody
// is on a roster twice.
func (e rosterEntry) pin(ctx context.Context, tx db.Tx, workspaceID string, a *api.Agent) (who string, pinned json.RawMessage, err error) {
	switch e.Type {
	case api.RosterAdvisor:
		pinned, err = json.Marshal(api.Advisor{Type: api.RosterAdvisor, Model: e.Model})
		return "an advisor", pinned, err
	case api.RosterSelf:
		e.ID = a.ID
	}
	ref := api.RosterReference{ID: e.ID, Type: api.RosterAgent, Version: a.Version}
	if e.ID != a.ID {
		member, err := getVersion(ctx, tx, workspaceID, e.ID, e.Version.Value)
		var missing *api.Error
		switch {
		case errors.As(err, &missing):
			return "", nil, api.Invalid(e.field+".id", "%s", missing.Message)
		case err != nil:
			return "", nil, err
		case member.ArchivedAt != nil:
			return "", nil, api.Invalid(e.field, "agent %s is archived", e.ID)
		case string(member.Multiagent) != "null":
			return "", nil, api.Invalid(e.field, "agent %s has a roster of its own; only agents without one can be on a roster", e.ID)
		}
		ref.Version = member.Version
	}
	pinned, err = json.Marshal(ref)
	return e.ID, pinned, err
}

// pinSelf has an agent that is on its own roster be there as it now is.
func pinSelf(a *api.Agent) error {
	return eachReference(a.Multiagent, func(ref *api.RosterReference) error {
		if ref.ID == a.ID {
			ref.Version = a.Version
		}
		return nil
	}, &a.Multiagent)
}

// eachReference visits the agents of a roster, and writes it with what the
// visits make of them.
func eachReference(roster json.RawMessage, visit func(*api.RosterReference) error, to *json.RawMessage) error {
	var held *api.Multiagent
	if err := json.Unmarshal(roster, &held); err != nil || held == nil {
		return err
	}
	for i, raw := range held.Agents {
		var ref api.RosterReference
		if err := json.Unmarshal(raw, &ref); err != nil {
			return err
		}
		if ref.Type != api.RosterAgent {
			continue
		}
		if err := visit(&ref); err != nil {
			return err
		}
		changed, err := json.Marshal(ref)
		if err != nil {
			return err
		}
		held.Agents[i] = changed
	}
	raw, err := json.Marshal(held)
	*to = raw
	return err
}

// cast is the roster of an agent as a session holds it: each member in full. An
// agent on its own roster is there as the session has it, overrides and all.
func (s *Store) cast(ctx context.Context, workspaceID string, a api.SessionAgent) (json.RawMessage, error) {
	var held *api.Multiagent
	if err := json.Unmarshal(a.Multiagent, &held); err != nil || held == nil {
		return json.RawMessage("null"), err
	}
	members := slices.Clone(held.Agents)
	for i, raw := range members {
		var ref api.RosterReference
		if err := json.Unmarshal(raw, &ref); err != nil {
			return nil, err
		}
		if ref.Type != api.RosterAgent {
			continue
		}
		full := a
		if ref.ID != a.ID {
			member, err := s.Get(ctx, workspaceID, ref.ID, ref.Version)
			if err != nil {
				return nil, err
			}
			if member.ArchivedAt != nil {
				return nil, api.Invalid("agent", "agent %s, which is on the roster of agent %s, is archived", ref.ID, a.ID)
			}
			full = sessionAgent(member)
		}
		changed, err := json.Marshal(full.Thread())
		if err != nil {
			return nil, err
		}
		members[i] = changed
	}
	return json.Marshal(api.Multiagent{Type: held.Type, Agents: members})
}

// sessionAgent is an agent as a session holds it, but for its roster.
func sessionAgent(a api.Agent) api.SessionAgent {
	return api.SessionAgent{
		ID: a.ID, Type: "agent", Version: a.Version, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System,
		Tools: a.Tools, MCPServers: a.MCPServers, Skills: a.Skills, Multiagent: a.Multiagent, ExecutionIdentity: a.ExecutionIdentity,
	}
}
