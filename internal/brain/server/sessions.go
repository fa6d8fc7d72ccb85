package server

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/agent"
	"hearth/internal/brain/launch"
	"hearth/internal/brain/session"
)

func (s *server) sessionRoutes() []route {
	const (
		sessions   = "/v1/sessions"
		oneSession = sessions + "/{session_id}"
		events     = oneSession + "/events"
		threads    = oneSession + "/threads"
		oneThread  = threads + "/{thread_id}"
	)
	return []route{
		{"POST", sessions, developer, s.createSession},
		{"GET", sessions, viewer, s.listSessions},
		{"GET", oneSession, viewer | worker | item, s.getSession},
		{"POST", oneSession, developer, s.updateSession},
		{"DELETE", oneSession, developer, s.deleteSession},
		{"POST", oneSession + "/archive", developer, s.archiveSession},
		{"POST", events, developer | worker | item, s.sendEvents},
		{"GET", events, viewer | worker | item, s.listEvents},
		{"GET", events + "/stream", viewer | worker | item, s.streamEvents},
		{"GET", threads, viewer, s.listThreads},
		{"GET", oneThread, viewer, s.getThread},
		{"POST", oneThread + "/archive", developer, s.archiveThread},
		{"GET", oneThread + "/events", viewer, s.listThreadEvents},
		{"GET", oneThread + "/stream", viewer, s.streamThread},
	}
}

func (s *server) createSession(r *request) (any, error) {
	var p launch.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Launcher().Start(r.Context(), r.principal.WorkspaceID, p)
}

// Launcher starts sessions of what the server serves.
func (c Config) Launcher() launch.Launcher {
	return launch.Launcher{Agents: c.Agents, Environments: c.Environments, Sessions: c.Sessions, Resources: c.maker(), CheckOpen: c.Keys.CheckOpen, Vaults: c.Vaults, Skills: c.Skills}
}

func (s *server) getSession(r *request) (any, error) {
	return s.Sessions.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"))
}

var statuses = []string{string(api.SessionIdle), string(api.SessionRunning), string(api.SessionRescheduling), string(api.SessionTerminated)}

func (s *server) listSessions(r *request) (any, error) {
	q := r.params()
	order := q.choice("order", "desc", "asc")
	list := "sessions " + order
	at := q.cursor(list)
	f := session.Filter{
		WorkspaceID: r.principal.WorkspaceID, AgentID: q.text("agent_id"), AgentVersion: q.number("agent_version", 1, math.MaxInt64, 0),
		MemoryStoreID: q.text("memory_store_id"), DeploymentID: q.text("deployment_id"), IncludeArchived: q.flag("include_archived"), Ascending: order == "asc", Limit: q.limit(),
		CursorID: at.ID, CursorTime: time.UnixMicro(at.Number), Backwards: at.Backwards,
	}
	f.CreatedAfter, f.CreatedBefore = q.span("created_at")
	for _, status := range q.list("statuses") {
		if !slices.Contains(statuses, status) {
			q.fail("statuses[]", "must be one of %s, not %.40q", strings.Join(statuses, ", "), status)
		}
		f.Statuses = append(f.Statuses, api.SessionStatus(status))
	}
	if f.AgentVersion != 0 && f.AgentID == "" {
		q.fail("agent_version", "needs agent_id beside it")
	}
	if q.err != nil {
		return nil, q.err
	}
	sessions, more, err := s.Sessions.List(r.Context(), f)
	if err != nil {
		return nil, err
	}
	return bidirectional(sessions, more, list, at), nil
}

// bidirectional makes a page with a cursor to each side on which there is more.
func bidirectional(sessions []api.Session, more bool, list string, at cursor) api.BidirectionalPage[api.Session] {
	out := api.BidirectionalPage[api.Session]{Data: sessions}
	if len(sessions) == 0 {
		out.Data = []api.Session{}
		return out
	}
	to := func(s api.Session, backwards bool) *string {
		return cursor{List: list, ID: s.ID, Number: s.CreatedAt.UnixMicro(), Backwards: backwards}.encode()
	}
	came := at.ID != "" // from the page on the other side
	if at.Backwards && came || more {
		out.NextPage = to(sessions[len(sessions)-1], false)
	}
	if !at.Backwards && came || at.Backwards && more {
		out.PrevPage = to(sessions[0], true)
	}
	return out
}

func (s *server) updateSession(r *request) (any, error) {
	var p struct {
		Title    api.Optional[string]             `json:"title"`
		Metadata api.Optional[map[string]*string] `json:"metadata"`
		VaultIDs api.Optional[[]string]           `json:"vault_ids"`
		Budget   api.Optional[json.RawMessage]    `json:"budget"`
		Agent    *struct {
			Tools      api.Optional[[]json.RawMessage] `json:"tools"`
			MCPServers api.Optional[[]api.MCPServer]   `json:"mcp_servers"`
		} `json:"agent"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	update := session.UpdateParams{Metadata: p.Metadata.Value, Budget: p.Budget}
	if p.VaultIDs.Set {
		if err := s.Vaults.Check(r.Context(), r.principal.WorkspaceID, p.VaultIDs.Value); err != nil {
			return nil, err
		}
		ids := append([]string{}, p.VaultIDs.Value...)
		update.VaultIDs = &ids
	}
	if p.Title.Set {
		title := p.Title.Pointer()
		update.Title = &title
	}
	if p.Agent != nil && (p.Agent.Tools.Set || p.Agent.MCPServers.Set) {
		update.Agent = func(a *api.SessionAgent) error { return agent.Reconfigure(a, p.Agent.Tools, p.Agent.MCPServers) }
	}
	return s.Sessions.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"), update)
}

func (s *server) archiveSession(r *request) (any, error) {
	return s.Sessions.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"))
}

func (s *server) deleteSession(r *request) (any, error) {
	id := r.PathValue("session_id")
	if err := s.Sessions.Delete(r.Context(), r.principal.WorkspaceID, id); err != nil {
		return nil, err
	}
	return api.Deleted{ID: id, Type: "session_deleted"}, s.Files.DeleteOf(r.Context(), id)
}
