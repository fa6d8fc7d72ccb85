package server

import (
	"hearth/api"
	"hearth/internal/brain/dream"
)

func (s *server) dreamRoutes() []route {
	const (
		dreams   = "/v1/dreams"
		oneDream = dreams + "/{dream_id}"
	)
	return []route{
		{"POST", dreams, developer, s.createDream},
		{"GET", dreams, viewer, s.listDreams},
		{"GET", oneDream, viewer, s.getDream},
		{"POST", oneDream + "/archive", developer, s.archiveDream},
		{"POST", oneDream + "/cancel", developer, s.cancelDream},
	}
}

func (s *server) createDream(r *request) (any, error) {
	var p dream.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Dreams.Create(r.Context(), r.principal.WorkspaceID, p)
}

func (s *server) listDreams(r *request) (any, error) {
	q := r.params()
	query := dream.Query{
		WorkspaceID: r.principal.WorkspaceID, Beyond: q.cursor("dreams").ID, Limit: q.limit(),
		Archived: q.flag("include_archived"), Statuses: q.list("statuses"),
		After: q.moment("created_at[gt]"), Before: q.moment("created_at[lt]"),
	}
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Dreams.List(r.Context(), query)
	return page(list, more, func(d api.Dream) cursor { return cursor{List: "dreams", ID: d.ID} }), err
}

func (s *server) getDream(r *request) (any, error) {
	return s.Dreams.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("dream_id"))
}

func (s *server) archiveDream(r *request) (any, error) {
	return s.Dreams.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("dream_id"))
}

func (s *server) cancelDream(r *request) (any, error) {
	return s.Dreams.Cancel(r.Context(), r.principal.WorkspaceID, r.PathValue("dream_id"))
}
