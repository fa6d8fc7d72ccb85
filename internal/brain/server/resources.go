package server

import (
	"encoding/json"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/brain/resource"
)

func (s *server) resourceRoutes() []route {
	const (
		resources   = "/v1/sessions/{session_id}/resources"
		oneResource = resources + "/{resource_id}"
	)
	return []route{
		{"GET", resources, viewer | worker | item, s.listResources},
		{"POST", resources, developer, s.addResource},
		{"GET", oneResource, viewer, s.getResource},
		{"POST", oneResource, developer, s.updateResource},
		{"DELETE", oneResource, developer, s.deleteResource},
		// Ours: what the worker that serves the session needs and nobody else may see.
		{"GET", oneResource + "/token", worker | item, s.resourceToken},
		{"POST", "/v1/sessions/{session_id}/reports", worker | item, s.report},
	}
}

func (c Config) maker() resource.Maker {
	return resource.Maker{Files: c.Files, Memories: c.Memories, Sealer: c.Sealer}
}

// resources are those of a session.
func (s *server) resources(r *request, sessionID string) ([]resource.Resource, error) {
	session, err := s.Sessions.Get(r.Context(), r.principal.WorkspaceID, sessionID)
	if err != nil {
		return nil, err
	}
	return resource.DecodeAll(session.Resources)
}

func (s *server) listResources(r *request) (any, error) {
	q := r.params()
	from, limit := q.cursor("resources").Number, q.limitTo(1000)
	if q.err != nil {
		return nil, q.err
	}
	session, err := s.Sessions.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"))
	if err != nil {
		return nil, err
	}
	all := session.Resources
	from = min(max(from, 0), int64(len(all)))
	end := min(from+int64(limit), int64(len(all)))
	return page(all[from:end], end < int64(len(all)), func(json.RawMessage) cursor { return cursor{List: "resources", Number: end} }), nil
}

func (s *server) addResource(r *request) (any, error) {
	var raw json.RawMessage
	if err := r.decode(&raw); err != nil {
		return nil, err
	}
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	made, err := s.maker().MakeFile(r.Context(), r.principal.WorkspaceID, raw)
	if err != nil {
		return nil, err
	}
	err = s.Sessions.ChangeResources(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"), func(there []json.RawMessage) ([]json.RawMessage, error) {
		known, err := resource.DecodeAll(there)
		if err != nil {
			return nil, err
		}
		return append(there, made.JSON), resource.Fits("", known, made)
	})
	return made.JSON, err
}

// find finds the resource in the path.
func (s *server) find(r *request) (resource.Resource, error) {
	all, err := s.resources(r, r.PathValue("session_id"))
	if err != nil {
		return resource.Resource{}, err
	}
	id := r.PathValue("resource_id")
	i := slices.IndexFunc(all, func(one resource.Resource) bool { return one.ID == id })
	if i < 0 {
		return resource.Resource{}, api.NotFound("resource", id)
	}
	return all[i], nil
}

func (s *server) getResource(r *request) (any, error) {
	one, err := s.find(r)
	return one.JSON, err
}

// updateResource replaces the token of a repository.
func (s *server) updateResource(r *request) (any, error) {
	var p struct {
		AuthorizationToken *string `json:"authorization_token"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	if p.AuthorizationToken == nil {
		return nil, api.Invalid("authorization_token", "is required")
	}
	one, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if one.Type != api.ResourceRepository {
		return nil, api.Invalid("authorization_token", "belongs to a %s, and this is a %s", api.ResourceRepository, one.Type)
	}
	sealed, err := s.maker().SealToken("", one.ID, *p.AuthorizationToken)
	if err != nil {
		return nil, err
	}
	session := r.PathValue("session_id")
	if err := s.Sessions.SetResourceToken(r.Context(), session, one.ID, sealed); err != nil {
		return nil, err
	}
	var updated json.RawMessage
	err = s.Sessions.ChangeResources(r.Context(), r.principal.WorkspaceID, session, func(there []json.RawMessage) ([]json.RawMessage, error) {
		i, err := position(there, one.ID)
		if err != nil {
			return nil, err
		}
		var repository api.RepositoryResource
		if err := json.Unmarshal(there[i], &repository); err != nil {
			return nil, err
		}
		repository.UpdatedAt = time.Now().UTC().Truncate(time.Microsecond)
		updated, err = json.Marshal(repository)
		there[i] = updated
		return there, err
	})
	return updated, err
}

// position is where the resource with an id is among others.
func position(resources []json.RawMessage, id string) (int, error) {
	i := slices.IndexFunc(resources, func(raw json.RawMessage) bool {
		r, err := resource.Decode(raw)
		return err == nil && r.ID == id
	})
	if i < 0 {
		return 0, api.NotFound("resource", id)
	}
	return i, nil
}

func (s *server) deleteResource(r *request) (any, error) {
	one, err := s.find(r)
	if err != nil {
		return nil, err
	}
	err = s.Sessions.ChangeResources(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"), func(there []json.RawMessage) ([]json.RawMessage, error) {
		i, err := position(there, one.ID)
		if err != nil {
			return nil, err
		}
		return slices.Delete(there, i, i+1), nil
	})
	if err == nil {
		err = s.Sessions.SetResourceToken(r.Context(), r.PathValue("session_id"), one.ID, "")
	}
	return api.Deleted{ID: one.ID, Type: "session_resource_deleted"}, err
}

func (s *server) resourceToken(r *request) (any, error) {
	one, err := s.find(r)
	if err != nil {
		return nil, err
	}
	sealed, err := s.Sessions.ResourceToken(r.Context(), r.PathValue("session_id"), one.ID)
	if err != nil || sealed == "" {
		return api.ResourceToken{}, err
	}
	token, err := s.Sealer.Open(r.Context(), one.ID, sealed)
	return api.ResourceToken{AuthorizationToken: token}, err
}

// maxReport bounds a worker's report, in bytes.
const maxReport = 2000

// report puts on record what the hands could not do and no tool call tells of.
func (s *server) report(r *request) (any, error) {
	var p struct {
		Message string `json:"message"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	if p.Message == "" || len(p.Message) > maxReport {
		return nil, api.Invalid("message", "must have 1 to %d bytes", maxReport)
	}
	return struct{}{}, s.Sessions.Report(r.Context(), r.PathValue("session_id"), p.Message)
}
