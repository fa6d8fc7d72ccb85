package server

import (
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

func (s *server) workspaceRoutes() []route {
	const (
		workspaces   = "/v1/workspaces"
		oneWorkspace = workspaces + "/{workspace_id}"
		keys         = "/v1/api_keys"
		oneKey       = keys + "/{api_key_id}"
	)
	return []route{
		{"POST", workspaces, operator, s.createWorkspace},
		{"GET", workspaces, admin, s.listWorkspaces},
		{"GET", oneWorkspace, admin, s.getWorkspace},
		{"POST", oneWorkspace, operator, s.renameWorkspace},
		{"POST", oneWorkspace + "/archive", operator, s.archiveWorkspace},
		{"POST", keys, admin, s.createAPIKey},
		{"GET", keys, admin, s.listAPIKeys},
		{"GET", oneKey, admin, s.getAPIKey},
		{"POST", oneKey + "/revoke", admin, s.revokeAPIKey},
	}
}

type workspaceParams struct {
	Name api.Optional[string] `json:"name"`
}

func (p workspaceParams) name() (string, error) {
	if !p.Name.Given() {
		return "", api.Invalid("name", "is required")
	}
	return p.Name.Value, nil
}

func (s *server) createWorkspace(r *request) (any, error) {
	var p workspaceParams
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	w, err := s.Keys.CreateWorkspace(r.Context(), name)
	if err == nil {
		s.audit(r, "workspace created", "created", w.ID, "name", w.Name)
	}
	return w, err
}

// listWorkspaces lists all to the operator, and to other admins their own.
func (s *server) listWorkspaces(r *request) (any, error) {
	q := r.params()
	after, limit, archived := q.cursor("workspaces").ID, q.limit(), q.flag("include_archived")
	if q.err != nil {
		return nil, q.err
	}
	only := r.principal.WorkspaceID
	if r.principal.Operator {
		only = ""
	}
	list, more, err := s.Keys.ListWorkspaces(r.Context(), only, after, limit, archived)
	return page(list, more, func(w api.Workspace) cursor { return cursor{List: "workspaces", ID: w.ID} }), err
}

func (s *server) getWorkspace(r *request) (any, error) {
	return s.Keys.GetWorkspace(r.Context(), r.PathValue("workspace_id"))
}

func (s *server) renameWorkspace(r *request) (any, error) {
	var p workspaceParams
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	return s.Keys.RenameWorkspace(r.Context(), r.PathValue("workspace_id"), name)
}

func (s *server) archiveWorkspace(r *request) (any, error) {
	w, err := s.Keys.ArchiveWorkspace(r.Context(), r.PathValue("workspace_id"))
	if err == nil {
		s.audit(r, "workspace archived", "archived", w.ID)
	}
	return w, err
}

func (s *server) createAPIKey(r *request) (any, error) {
	var p struct {
		Name      api.Optional[string] `json:"name"`
		Role      api.Optional[string] `json:"role"`
		ExpiresAt *string              `json:"expires_at"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	switch {
	case !p.Name.Given():
		return nil, api.Invalid("name", "is required")
	case !p.Role.Given():
		return nil, api.Invalid("role", "is required: %s, %s or %s", auth.RoleAdmin, auth.RoleDeveloper, auth.RoleViewer)
	}
	params := auth.KeyParams{Name: p.Name.Value, Role: p.Role.Value}
	if p.ExpiresAt != nil {
		at, err := parseTime("expires_at", *p.ExpiresAt)
		if err != nil {
			return nil, err
		}
		params.ExpiresAt = &at
	}
	k, err := s.Keys.CreateKey(r.Context(), r.principal, params)
	if err == nil {
		s.audit(r, "API key created", "created", k.ID, "name", k.Name, "role", k.Role, "expires", expiry(k.ExpiresAt))
	}
	return k, err
}

// expiry is a time for the log.
func expiry(at *time.Time) string {
	if at == nil {
		return "never"
	}
	return at.Format(time.RFC3339)
}

func (s *server) listAPIKeys(r *request) (any, error) {
	q := r.params()
	after, limit := q.cursor("api_keys").ID, q.limit()
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Keys.ListKeys(r.Context(), r.principal.WorkspaceID, after, limit)
	return page(list, more, func(k api.APIKey) cursor { return cursor{List: "api_keys", ID: k.ID} }), err
}

func (s *server) getAPIKey(r *request) (any, error) {
	return s.Keys.GetKey(r.Context(), r.principal.WorkspaceID, r.PathValue("api_key_id"))
}

func (s *server) revokeAPIKey(r *request) (any, error) {
	k, err := s.Keys.RevokeKey(r.Context(), r.principal.WorkspaceID, r.PathValue("api_key_id"))
	if err == nil {
		s.audit(r, "API key revoked", "revoked", k.ID, "name", k.Name)
	}
	return k, err
}

// audit logs what was done to credentials, and by whom.
func (s *server) audit(r *request, what string, more ...any) {
	s.Log.Info(what, append(more, "principal", string(r.principal.Kind), "key", r.principal.ID, "workspace", r.principal.WorkspaceID, "request_id", r.id)...)
}
