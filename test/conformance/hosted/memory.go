package hosted

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// memoryStore is one a session has attached.
type memoryStore struct {
	id       string
	memories map[string]string // content by path
}

// AwaitMemories waits until the session's memory store holds just that, content
// by path.
func (session *Session) AwaitMemories(t testing.TB, want map[string]string) {
	t.Helper()
	session.service.await(t, fmt.Sprintf("the memories are %q", want), func() bool { return maps.Equal(session.memory.memories, want) })
}

// SetMemory changes a memory as somebody else would.
func (session *Session) SetMemory(path, content string) {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	session.memory.memories[path] = content
	s.change()
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// memoryID is made of the path, of which each memory has one.
func memoryID(path string) string { return "mem_" + digest(path)[:16] }

func (m *memoryStore) memory(path string, full bool) map[string]any {
	content := m.memories[path]
	out := map[string]any{
		"id": memoryID(path), "type": "memory", "memory_store_id": m.id, "memory_version_id": "memver_1", "path": path, "content": nil,
		"content_sha256": digest(content), "content_size_bytes": len(content), "created_at": time.Now().UTC(), "updated_at": time.Now().UTC(),
	}
	if full {
		out["content"] = content
	}
	return out
}

func (m *memoryStore) find(id string) (path string, found bool) {
	for path := range m.memories {
		if memoryID(path) == id {
			return path, true
		}
	}
	return "", false
}

// memories answers every call about the memories of a store.
func (s *Service) memories(req *request) reply {
	s.checkSessionRead(req)
	if req.bearer == EnvironmentKey {
		s.violate(req, TokenServes, "memories were asked for with the environment key")
		return failure(http.StatusForbidden, "permission_error", "memories need a sessions token", nil)
	}
	if beta := strings.Join(req.Header.Values("Anthropic-Beta"), ","); beta != "agent-memory-2026-07-22" {
		s.violate(req, Headers, "anthropic-beta is %q", beta)
	}
	store := req.claim.item.session.memory
	if store == nil || req.PathValue("store") != store.id {
		s.violate(req, KnownCalls, "the session has no memory store %q", req.PathValue("store"))
		return failure(http.StatusNotFound, "not_found_error", "no such memory store", nil)
	}
	id := req.PathValue("memory")
	if id == "" && req.Method == http.MethodGet {
		return store.list(req)
	}
	path, found := store.find(id)
	if id != "" && !found {
		return failure(http.StatusNotFound, "not_found_error", "no such memory", nil)
	}
	conflict := failure(http.StatusConflict, "memory_precondition_failed_error", "it has changed", nil)
	conflict.header = map[string]string{"X-Should-Retry": "false"}
	switch req.Method {
	case http.MethodGet:
		return reply{status: http.StatusOK, body: store.memory(path, req.query.Get("view") != "basic")}
	case http.MethodDelete:
		if req.query.Get("expected_content_sha256") != digest(store.memories[path]) {
			return conflict
		}
		delete(store.memories, path)
		return reply{status: http.StatusOK, body: map[string]any{"id": id, "type": "memory_deleted"}}
	}
	var body struct {
		Path, Content *string
		Precondition  struct {
			Type   string
			SHA256 string `json:"content_sha256"`
		}
	}
	if err := json.Unmarshal(req.body, &body); err != nil || body.Content == nil || (id == "") != (body.Path != nil) {
		s.violate(req, Bodies, "it is no memory: %v", err)
		return failure(http.StatusBadRequest, "invalid_request_error", "content: is required", nil)
	}
	if id != "" {
		if body.Precondition.Type != "content_sha256" || body.Precondition.SHA256 != digest(store.memories[path]) {
			return conflict
		}
	} else if path = *body.Path; store.memories[path] != "" {
		return failure(http.StatusConflict, "memory_path_conflict_error", "the path is taken", nil)
	}
	store.memories[path] = *body.Content
	return reply{status: http.StatusOK, body: store.memory(path, false)}
}

// list answers with one memory on each page, and never more than the hosted
// service gives.
func (m *memoryStore) list(req *request) reply {
	full := req.query.Get("view") == "full"
	page := map[string]any{"data": []any{}, "next_page": nil}
	for _, path := range slices.Sorted(maps.Keys(m.memories)) {
		if path > req.query.Get("page") {
			page["data"], page["next_page"] = []any{m.memory(path, full)}, path
			break
		}
	}
	return reply{status: http.StatusOK, body: page}
}
