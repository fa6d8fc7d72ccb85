package fakemodel

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	modelsPath   = "/v1/models"
	messagesPath = "/v1/messages"
	countPath    = messagesPath + "/count_tokens"
)

// Models are the ids of the models a server has, newest first. A message may
// name any other, too.
var Models = []string{"fake-3", "fake-2", "fake-1"}

// methodOf is the method a path takes; "" if there is nothing there.
func methodOf(path string) string {
	switch {
	case path == messagesPath, path == countPath:
		return http.MethodPost
	case path == modelsPath, strings.HasPrefix(path, modelsPath+"/"):
		return http.MethodGet
	}
	return ""
}

func model(id string) map[string]any {
	return map[string]any{
		"id": id, "type": "model", "display_name": strings.ToTitle(id), "created_at": time.Unix(0, 0).UTC(), "lifecycle": "active", "line": nil,
		"allowed_fallback_models": nil, "capabilities": nil, "deprecated_at": nil, "retires_at": nil, "max_input_tokens": 200_000, "max_tokens": 64_000,
	}
}

// serveModels answers requests about models.
func (s *Server) serveModels(w http.ResponseWriter, r *http.Request) {
	if id, one := strings.CutPrefix(r.URL.Path, modelsPath+"/"); one {
		if !slices.Contains(Models, id) {
			s.refuse(w, r, Fail(http.StatusNotFound, "model: "+id))
			return
		}
		writeJSON(w, model(id))
		return
	}
	query := r.URL.Query()
	from, to := 0, len(Models)
	if i := slices.Index(Models, query.Get("after_id")); i >= 0 {
		from = i + 1
	}
	if i := slices.Index(Models, query.Get("before_id")); i >= 0 {
		to = i
	}
	limit := 20
	if n, err := strconv.Atoi(query.Get("limit")); err == nil {
		limit = n
	}
	end := min(to, from+limit)
	if query.Has("before_id") {
		from, end = max(from, to-limit), to
	}
	page := map[string]any{"data": []any{}, "has_more": end < to || query.Has("before_id") && from > 0, "first_id": nil, "last_id": nil}
	if from < end {
		data := make([]any, 0, end-from)
		for _, id := range Models[from:end] {
			data = append(data, model(id))
		}
		page["data"], page["first_id"], page["last_id"] = data, Models[from], Models[end-1]
	}
	writeJSON(w, page)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
}
