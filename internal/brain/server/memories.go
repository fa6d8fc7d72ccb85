package server

import (
	"net/http"
	"slices"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/memory"
	"hearth/internal/brain/resource"
)

func (s *server) memoryRoutes() []route {
	const (
		stores     = "/v1/memory_stores"
		store      = stores + "/{memory_store_id}"
		memories   = store + "/memories"
		oneMemory  = memories + "/{memory_id}"
		versions   = store + "/memory_versions"
		oneVersion = versions + "/{memory_version_id}"
	)
	return []route{
		{"POST", stores, developer, s.createMemoryStore},
		{"GET", stores, viewer, s.listMemoryStores},
		{"GET", store, viewer, s.getMemoryStore},
		{"POST", store, developer, s.updateMemoryStore},
		{"DELETE", store, developer, s.deleteMemoryStore},
		{"POST", store + "/archive", developer, s.archiveMemoryStore},
		{"POST", memories, developer | item, s.createMemory},
		{"GET", memories, viewer | item, s.listMemories},
		{"GET", oneMemory, viewer | item, s.getMemory},
		{"POST", oneMemory, developer | item, s.updateMemory},
		{"DELETE", oneMemory, developer | item, s.deleteMemory},
		{"GET", versions, viewer, s.listMemoryVersions},
		{"GET", oneVersion, viewer, s.getMemoryVersion},
		{"POST", oneVersion + "/redact", developer, s.redactMemoryVersion},
	}
}

// seesMemories checks that a worker asks for a store that is mounted in its
// session, and that it writes only where the session may.
func (s *server) seesMemories(r *request, storeID string) error {
	resources, err := s.resources(r, r.principal.Token.SessionID)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(resources, func(one resource.Resource) bool { return one.MemoryStoreID == storeID })
	if i < 0 {
		return api.NotFound("memory store", storeID)
	}
	if resources[i].ReadOnly && r.Method != http.MethodGet {
		return api.Forbidden("session %s has memory store %s to read only", r.principal.Token.SessionID, storeID)
	}
	return nil
}

// actor is who changes a memory.
func (r *request) actor() api.MemoryActor {
	switch r.principal.Kind {
	case auth.KindSessionsToken:
		return api.NewMemoryActor(api.ActorSession, r.principal.Token.SessionID)
	case auth.KindPerson:
		return api.NewMemoryActor(api.ActorUser, r.principal.ID)
	}
	return api.NewMemoryActor(api.ActorAPI, r.principal.ID)
}

func (s *server) createMemoryStore(r *request) (any, error) {
	var p memory.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Memories.Create(r.Context(), r.principal.WorkspaceID, p)
}

func (s *server) listMemoryStores(r *request) (any, error) {
	q := r.params()
	f := memory.Filter{
		WorkspaceID: r.principal.WorkspaceID, From: q.moment("created_at[gte]"), To: q.moment("created_at[lte]"),
		IncludeArchived: q.flag("include_archived"), After: q.cursor("memory_stores").ID, Limit: q.limit(),
	}
	if q.err != nil {
		return nil, q.err
	}
	stores, more, err := s.Memories.List(r.Context(), f)
	return page(stores, more, func(store api.MemoryStore) cursor { return cursor{List: "memory_stores", ID: store.ID} }), err
}

func (s *server) getMemoryStore(r *request) (any, error) {
	return s.Memories.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"))
}

func (s *server) updateMemoryStore(r *request) (any, error) {
	var p memory.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Memories.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), p)
}

func (s *server) archiveMemoryStore(r *request) (any, error) {
	return s.Memories.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"))
}

func (s *server) deleteMemoryStore(r *request) (any, error) {
	id := r.PathValue("memory_store_id")
	return api.Deleted{ID: id, Type: "memory_store_deleted"}, s.Memories.Delete(r.Context(), r.principal.WorkspaceID, id)
}

// The views of memories and their versions: without and with what they hold.
const (
	viewBasic = "basic"
	viewFull  = "full"
)

// maxFull bounds a page of a list with contents.
const maxFull = 20

// contents reads the view and the size of a page: with contents it is smaller.
func (p *params) contents() (full bool, limit int) {
	full, limit = p.choice("view", viewBasic, viewFull) == viewFull, p.limit()
	if full {
		limit = min(limit, maxFull)
	}
	return full, limit
}

// one answers with a memory; the views are the default and the other one.
func (r *request) one(m api.Memory, views ...string) (any, error) {
	q := r.params()
	if q.choice("view", views...) == viewBasic {
		m.Content = nil
	}
	return m, q.err
}

func (s *server) createMemory(r *request) (any, error) {
	var w memory.Write
	if err := r.decode(&w); err != nil {
		return nil, err
	}
	if _, err := r.one(api.Memory{}, viewBasic, viewFull); err != nil {
		return nil, err
	}
	m, err := s.Memories.Add(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), r.actor(), w)
	if err != nil {
		return nil, err
	}
	return r.one(m, viewBasic, viewFull)
}

func (s *server) getMemory(r *request) (any, error) {
	m, err := s.Memories.Memory(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), r.PathValue("memory_id"))
	if err != nil {
		return nil, err
	}
	return r.one(m, viewFull, viewBasic)
}

func (s *server) updateMemory(r *request) (any, error) {
	var w memory.Write
	if err := r.decode(&w); err != nil {
		return nil, err
	}
	if _, err := r.one(api.Memory{}, viewBasic, viewFull); err != nil {
		return nil, err
	}
	m, err := s.Memories.Set(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), r.PathValue("memory_id"), r.actor(), w)
	if err != nil {
		return nil, err
	}
	return r.one(m, viewBasic, viewFull)
}

func (s *server) deleteMemory(r *request) (any, error) {
	q := r.params()
	expected := q.text("expected_content_sha256")
	if q.err != nil {
		return nil, q.err
	}
	id := r.PathValue("memory_id")
	return api.Deleted{ID: id, Type: "memory_deleted"}, s.Memories.Remove(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), id, r.actor(), expected)
}

func (s *server) listMemories(r *request) (any, error) {
	q := r.params()
	f := memory.MemoryFilter{
		WorkspaceID: r.principal.WorkspaceID, StoreID: r.PathValue("memory_store_id"),
		Prefix: q.text("path_prefix"), Shallow: q.number("depth", 0, 1, 0) == 1,
	}
	list := "memories"
	if f.Shallow {
		list = "memories and directories"
	}
	f.After = q.cursor(list).ID
	f.Contents, f.Limit = q.contents()
	if q.err != nil {
		return nil, q.err
	}
	items, more, err := s.Memories.Memories(r.Context(), f)
	if err != nil {
		return nil, err
	}
	all := make([]any, len(items))
	for i, one := range items {
		all[i] = one.Memory
		if one.Directory != "" {
			all[i] = api.MemoryPrefix{Type: api.TypeMemoryPrefix, Path: one.Directory}
		}
	}
	return page(all, more, func(any) cursor { return cursor{List: list, ID: items[len(items)-1].Path()} }), nil
}

var operations = []string{"", api.MemoryCreated, api.MemoryModified, api.MemoryDeleted}

func (s *server) listMemoryVersions(r *request) (any, error) {
	q := r.params()
	f := memory.VersionFilter{
		WorkspaceID: r.principal.WorkspaceID, StoreID: r.PathValue("memory_store_id"), MemoryID: q.text("memory_id"),
		Operation: q.choice("operation", operations...), From: q.moment("created_at[gte]"), To: q.moment("created_at[lte]"),
		Before: q.cursor("memory_versions").Number,
	}
	// Service accounts there are none, and so no version is by one.
	for name, kind := range map[string]string{"session_id": api.ActorSession, "api_key_id": api.ActorAPI, "service_account_id": "service_account_actor"} {
		if id := q.text(name); id != "" {
			if f.ActorID != "" {
				q.fail(name, "only one of session_id, api_key_id and service_account_id can be given")
			}
			f.ActorType, f.ActorID = kind, id
		}
	}
	f.Contents, f.Limit = q.contents()
	if q.err != nil {
		return nil, q.err
	}
	versions, more, err := s.Memories.Versions(r.Context(), f)
	return page(versions, more, func(v memory.Version) cursor { return cursor{List: "memory_versions", Number: v.Position} }), err
}

func (s *server) getMemoryVersion(r *request) (any, error) {
	q := r.params()
	view := q.choice("view", viewFull, viewBasic)
	if q.err != nil {
		return nil, q.err
	}
	v, err := s.Memories.Version(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), r.PathValue("memory_version_id"))
	if view == viewBasic {
		v.Content = nil
	}
	return v.MemoryVersion, err
}

func (s *server) redactMemoryVersion(r *request) (any, error) {
	v, err := s.Memories.Redact(r.Context(), r.principal.WorkspaceID, r.PathValue("memory_store_id"), r.PathValue("memory_version_id"), r.actor())
	return v.MemoryVersion, err
}
