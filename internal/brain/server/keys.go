package server

import (
	"time"

	"hearth/api"
)

func (s *server) keyRoutes() []route {
	const keys = "/v1/environments/{environment_id}/keys"
	return []route{
		{"POST", keys, admin, s.createKey},
		{"GET", keys, viewer, s.listKeys},
		{"POST", keys + "/{key_id}/revoke", admin, s.revokeKey},
	}
}

func (s *server) createKey(r *request) (any, error) {
	var p struct {
		Name      string  `json:"name"`
		ExpiresAt *string `json:"expires_at"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	var expires *time.Time
	if p.ExpiresAt != nil {
		at, err := parseTime("expires_at", *p.ExpiresAt)
		if err != nil {
			return nil, err
		}
		expires = &at
	}
	k, err := s.Environments.CreateKey(r.Context(), r.principal.WorkspaceID, r.PathValue("environment_id"), p.Name, expires)
	if err == nil {
		s.audit(r, "environment key created", "created", k.ID, "name", k.Name, "environment", k.EnvironmentID, "expires", expiry(k.ExpiresAt))
	}
	return k, err
}

func (s *server) listKeys(r *request) (any, error) {
	q := r.params()
	after, limit := q.cursor("keys").ID, q.limit()
	if q.err != nil {
		return nil, q.err
	}
	keys, more, err := s.Environments.ListKeys(r.Context(), r.principal.WorkspaceID, r.PathValue("environment_id"), after, limit)
	return page(keys, more, func(k api.EnvironmentKey) cursor { return cursor{List: "keys", ID: k.ID} }), err
}

func (s *server) revokeKey(r *request) (any, error) {
	k, err := s.Environments.RevokeKey(r.Context(), r.principal.WorkspaceID, r.PathValue("environment_id"), r.PathValue("key_id"))
	if err == nil {
		s.audit(r, "environment key revoked", "revoked", k.ID, "name", k.Name, "environment", k.EnvironmentID)
	}
	return k, err
}
