package server

import (
	"math"

	"hearth/api"
	"hearth/internal/brain/agent"
)

func (s *server) agentRoutes() []route {
	const (
		agents   = "/v1/agents"
		oneAgent = agents + "/{agent_id}"
	)
	return []route{
		{"POST", agents, developer, s.createAgent},
		{"GET", agents, viewer, s.listAgents},
		{"GET", oneAgent, viewer, s.getAgent},
		{"POST", oneAgent, developer, s.updateAgent},
		{"POST", oneAgent + "/archive", developer, s.archiveAgent},
		{"GET", oneAgent + "/versions", viewer, s.listAgentVersions},
	}
}

func (s *server) createAgent(r *request) (any, error) {
	var p agent.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Agents.Create(r.Context(), r.principal.WorkspaceID, p)
}

func (s *server) listAgents(r *request) (any, error) {
	q := r.params()
	f := agent.Filter{
		WorkspaceID: r.principal.WorkspaceID, After: q.cursor("agents").ID, Limit: q.limit(), IncludeArchived: q.flag("include_archived"),
		Earliest: q.moment("created_at[gte]"), Latest: q.moment("created_at[lte]"),
	}
	if q.err != nil {
		return nil, q.err
	}
	agents, more, err := s.Agents.List(r.Context(), f)
	return page(agents, more, func(a api.Agent) cursor { return cursor{List: "agents", ID: a.ID} }), err
}

func (s *server) getAgent(r *request) (any, error) {
	q := r.params()
	version := q.number("version", 1, math.MaxInt64, 0)
	if q.err != nil {
		return nil, q.err
	}
	return s.Agents.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("agent_id"), version)
}

func (s *server) updateAgent(r *request) (any, error) {
	var p agent.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Agents.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("agent_id"), p)
}

func (s *server) archiveAgent(r *request) (any, error) {
	return s.Agents.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("agent_id"))
}

func (s *server) listAgentVersions(r *request) (any, error) {
	q := r.params()
	before, limit := q.cursor("versions").Number, q.limit()
	if q.err != nil {
		return nil, q.err
	}
	versions, more, err := s.Agents.Versions(r.Context(), r.principal.WorkspaceID, r.PathValue("agent_id"), before, limit)
	return page(versions, more, func(a api.Agent) cursor { return cursor{List: "versions", Number: a.Version} }), err
}
