package server

import (
	"hearth/api"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/session"
)

func (s *server) environmentRoutes() []route {
	const (
		environments = "/v1/environments"
		environment  = environments + "/{environment_id}"
	)
	return []route{
		{"POST", environments, developer, s.createEnvironment},
		{"GET", environments, viewer, s.listEnvironments},
		{"GET", environment, viewer, s.getEnvironment},
		{"POST", environment, developer, s.updateEnvironment},
		{"DELETE", environment, developer, s.deleteEnvironment},
		{"POST", environment + "/archive", developer, s.archiveEnvironment},
	}
}

func (s *server) createEnvironment(r *request) (any, error) {
	var p environment.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Environments.Create(r.Context(), r.principal.WorkspaceID, p)
}

func (s *server) listEnvironments(r *request) (any, error) {
	q := r.params()
	after, limit, archived := q.cursor("environments").ID, q.limit(), q.flag("include_archived")
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Environments.List(r.Context(), r.principal.WorkspaceID, after, limit, archived)
	return page(list, more, func(e api.Environment) cursor { return cursor{List: "environments", ID: e.ID} }), err
}

func (s *server) getEnvironment(r *request) (any, error) {
	return s.Environments.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("environment_id"))
}

func (s *server) updateEnvironment(r *request) (any, error) {
	var p environment.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Environments.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("environment_id"), p)
}

func (s *server) archiveEnvironment(r *request) (any, error) {
	return s.Environments.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("environment_id"))
}

// deleteEnvironment removes an environment that has no session left which
// could still act in it.
func (s *server) deleteEnvironment(r *request) (any, error) {
	id := r.PathValue("environment_id")
	left, _, err := s.Sessions.List(r.Context(), session.Filter{WorkspaceID: r.principal.WorkspaceID, EnvironmentID: id, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, api.Conflict("environment %s has sessions that are not archived, %s for one; archive or delete them first", id, left[0].ID)
	}
	return api.Deleted{ID: id, Type: "environment_deleted"}, s.Environments.Delete(r.Context(), r.principal.WorkspaceID, id)
}
