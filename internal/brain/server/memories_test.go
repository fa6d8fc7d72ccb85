package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

var memoryVerdicts = map[string]verdict{
	"POST /v1/memory_stores":                                                              forRole(auth.RoleDeveloper, `{"name":"another"}`),
	"GET /v1/memory_stores":                                                               forRole(auth.RoleViewer, ""),
	"GET /v1/memory_stores/{memory_store_id}":                                             forRole(auth.RoleViewer, ""),
	"POST /v1/memory_stores/{memory_store_id}":                                            forRole(auth.RoleDeveloper, `{"name":"renamed"}`),
	"DELETE /v1/memory_stores/{memory_store_id}":                                          forRole(auth.RoleDeveloper, ""),
	"POST /v1/memory_stores/{memory_store_id}/archive":                                    forRole(auth.RoleDeveloper, ""),
	"POST /v1/memory_stores/{memory_store_id}/memories":                                   ofTheStore(auth.RoleDeveloper, `{"path":"/new","content":"x"}`),
	"GET /v1/memory_stores/{memory_store_id}/memories":                                    ofTheStore(auth.RoleViewer, ""),
	"GET /v1/memory_stores/{memory_store_id}/memories/{memory_id}":                        ofTheStore(auth.RoleViewer, ""),
	"POST /v1/memory_stores/{memory_store_id}/memories/{memory_id}":                       ofTheStore(auth.RoleDeveloper, `{"content":"changed"}`),
	"DELETE /v1/memory_stores/{memory_store_id}/memories/{memory_id}":                     ofTheStore(auth.RoleDeveloper, ""),
	"GET /v1/memory_stores/{memory_store_id}/memory_versions":                             forRole(auth.RoleViewer, ""),
	"GET /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}":         forRole(auth.RoleViewer, ""),
	"POST /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact": forRole(auth.RoleDeveloper, ""),
}

// ofTheStore is also for the worker of a session that the store is mounted in, and
// never for an environment key.
func ofTheStore(least auth.Role, body string) verdict {
	return verdict{apiKey: 200, role: least, envKey: 403, othersKey: 403, token: 200, othersToken: 404, body: body}
}

var memoryForms = []form{
	{"POST /v1/memory_stores", `{"name":"n","description":"d","metadata":{"k":"v"}}`, map[string]string{
		"name": "string required max 255", "description": "string null max 1024", "metadata": "object null", "metadata.k": "string null max 512"}},
	{"POST /v1/memory_stores/{memory_store_id}", `{"name":"n","description":"d","metadata":{"k":"v"}}`, map[string]string{
		"name": "string null max 255", "description": "string null max 1024", "metadata": "object null", "metadata.k": "string null max 512"}},
	{"POST /v1/memory_stores/{memory_store_id}/memories", `{"path":"/formed","content":"c"}`, map[string]string{
		"path": "string required choice max 1024", "content": "string required max 102400"}},
	{"POST /v1/memory_stores/{memory_store_id}/memories/{memory_id}", `{"path":"/formed","content":"c","precondition":{"type":"content_sha256","content_sha256":"` + strings.Repeat("0", 64) + `"}}`, map[string]string{
		"path": "string null choice max 1024", "content": "string null max 102400", "precondition": "object null",
		"precondition.type": "string required choice", "precondition.content_sha256": "string required choice"}},
}

func memoryLists(s *site) []list {
	n := 0
	add := func() {
		n++
		s.remember("{memory_store_id}", fmt.Sprintf("/z/%03d", n), "x")
	}
	return []list{
		{"memory stores", "/v1/memory_stores", false, func() { s.memoryStore("n") }},
		{"memories", s.fill("/v1/memory_stores/{memory_store_id}/memories?path_prefix=/z/"), true, add},
		{"memories of a directory", s.fill("/v1/memory_stores/{memory_store_id}/memories?depth=1&path_prefix=/z/"), true, add},
		{"memory versions", s.fill("/v1/memory_stores/{memory_store_id}/memory_versions"), false, add},
	}
}

func (b *brain) memoryStore(name string) api.MemoryStore {
	b.t.Helper()
	return ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores", object{"name": name})
}

// memories makes a store with a memory of two versions, and returns the ids of
// the three, of the versions the first.
func (b *brain) memories() map[string]string {
	b.t.Helper()
	path := "/v1/memory_stores/" + b.memoryStore("Team notes").ID
	m := ok[api.Memory](b, b.key, "POST", path+"/memories", object{"path": "/a.md", "content": "one"})
	ok[api.Memory](b, b.key, "POST", path+"/memories/"+m.ID, object{"content": "two"})
	return map[string]string{"memory_store_id": m.MemoryStoreID, "memory_id": m.ID, "memory_version_id": m.MemoryVersionID}
}

func (s *site) remember(store, path, content string) api.Memory {
	s.t.Helper()
	return s.brain.remember(s.fill(store), path, content)
}

func (b *brain) remember(storeID, path, content string) api.Memory {
	b.t.Helper()
	return ok[api.Memory](b, b.key, "POST", "/v1/memory_stores/"+storeID+"/memories", object{"path": path, "content": content})
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// refused makes a request that must be refused, with a text in its message.
func (b *brain) refused(credential, method, path string, body any, status int, kind api.ErrorType, text string) api.Error {
	b.t.Helper()
	a := b.do(credential, method, path, body)
	f := a.failure()
	if a.status != status || f.Type != kind || !strings.Contains(f.Message, text) {
		b.t.Errorf("%s %s: %d %s, want %d %s with %q", method, path, a.status, a.body, status, kind, text)
	}
	if status == http.StatusConflict && a.header.Get("x-should-retry") != "false" {
		b.t.Errorf("%s %s: a conflict that says nothing of trying again", method, path)
	}
	return f
}

func TestMemoryStores(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		made := ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores", object{"name": "Préférences", "description": "what they like", "metadata": object{"user": "7", "old": "x"}})
		path := "/v1/memory_stores/" + made.ID
		if !strings.HasPrefix(made.ID, "memstore_") || made.ArchivedAt != nil || made.Description != "what they like" {
			t.Errorf("made %+v", made)
		}
		changed := ok[api.MemoryStore](b, b.key, "POST", path, object{"description": "", "metadata": object{"old": nil, "new": "y"}})
		if changed.Name != "Préférences" || changed.Description != "" || !maps.Equal(changed.Metadata, map[string]string{"user": "7", "new": "y"}) || !changed.UpdatedAt.After(made.UpdatedAt) {
			t.Errorf("changed to %+v", changed)
		}
		m := b.remember(made.ID, "/a", "x")
		if same := ok[api.MemoryStore](b, b.key, "POST", path, object{"name": "Préférences"}); !same.UpdatedAt.Equal(changed.UpdatedAt) {
			t.Error("neither a memory nor a change of nothing changes the store")
		}
		b.refused(b.key, "POST", "/v1/memory_stores", object{"name": "a\nb"}, 400, api.ErrInvalidRequest, "name:")

		over := ok[api.MemoryStore](b, b.key, "POST", path+"/archive", nil)
		if again := ok[api.MemoryStore](b, b.key, "POST", path+"/archive", nil); over.ArchivedAt == nil || !again.ArchivedAt.Equal(*over.ArchivedAt) {
			t.Errorf("archived at %v, then %v", over.ArchivedAt, again.ArchivedAt)
		}
		b.refused(b.key, "POST", path, object{"name": "b"}, 400, api.ErrInvalidRequest, "archived")
		b.refused(b.key, "POST", path+"/memories", object{"path": "/b", "content": "x"}, 400, api.ErrInvalidRequest, "archived")
		b.refused(b.key, "POST", path+"/memories/"+m.ID, object{"content": "y"}, 400, api.ErrInvalidRequest, "archived")
		agent, env := b.agent(), b.environment()
		b.refused(b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "resources": []object{{"type": "memory_store", "memory_store_id": made.ID}}}, 400, api.ErrInvalidRequest, "archived")
		if there := ok[api.Memory](b, b.key, "GET", path+"/memories/"+m.ID, nil); *there.Content != "x" {
			t.Errorf("an archived store holds %q", *there.Content)
		}
		ok[api.Deleted](b, b.key, "DELETE", path+"/memories/"+m.ID, nil)
		ok[api.MemoryVersion](b, b.key, "POST", path+"/memory_versions/"+m.MemoryVersionID+"/redact", nil)

		second := b.memoryStore("second")
		ids := func(query string) (all []string) {
			for _, one := range ok[api.Page[api.MemoryStore]](b, b.key, "GET", "/v1/memory_stores"+query, nil).Data {
				all = append(all, one.ID)
			}
			return all
		}
		at := url.QueryEscape(second.CreatedAt.Format(time.RFC3339Nano))
		for query, want := range map[string][]string{"": {second.ID}, "?include_archived=true": {second.ID, made.ID}, "?include_archived=true&created_at[gte]=" + at: {second.ID}, "?created_at[lte]=" + at: {second.ID}} {
			if got := ids(query); !slices.Equal(got, want) {
				t.Errorf("%q lists %q, want %q", query, got, want)
			}
		}
		ok[api.Deleted](b, b.key, "DELETE", path, nil)
		for _, gone := range []string{path, path + "/memories", path + "/memory_versions", path + "/memory_versions/" + m.MemoryVersionID} {
			b.refused(b.key, "GET", gone, nil, 404, api.ErrNotFound, made.ID)
		}
	})
}

func TestMemories(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		path := "/v1/memory_stores/" + b.memoryStore("n").ID + "/memories"
		const text = "line\r\n  e\u0301 \U0001F525\n" // to the byte as it came
		m := ok[api.Memory](b, b.key, "POST", path+"?view=full", object{"path": "/notes/été.md", "content": text})
		if *m.Content != text || m.ContentSHA256 != digest(text) || m.ContentSizeBytes != int64(len(text)) || m.Path != "/notes/été.md" {
			t.Errorf("made %+v", m)
		}
		for _, view := range []struct {
			method, query string
			full          bool
		}{{"GET", "", true}, {"GET", "?view=basic", false}, {"POST", "", false}, {"POST", "?view=full", true}} {
			if got := ok[api.Memory](b, b.key, view.method, path+"/"+m.ID+view.query, nil); (got.Content != nil) != view.full || got.ContentSHA256 != m.ContentSHA256 {
				t.Errorf("%s%s: %+v", view.method, view.query, got)
			}
		}
		b.refused(b.key, "GET", path+"/"+m.ID+"?view=wide", nil, 400, api.ErrInvalidRequest, "view")
		b.refused(b.key, "GET", path+"/mem_none", nil, 404, api.ErrNotFound, "mem_none")

		// What is in the way of what.
		for _, taken := range []string{"/notes/été.md", "/notes", "/notes/été.md/more"} {
			e := b.refused(b.key, "POST", path, object{"path": taken, "content": "x"}, 409, api.ErrMemoryPath, m.ID)
			if e.ConflictingMemoryID != m.ID || e.ConflictingPath != m.Path {
				t.Errorf("in the way of %s: %+v", taken, e)
			}
		}
		other := ok[api.Memory](b, b.key, "POST", path, object{"path": "/notes/etc", "content": ""})
		b.refused(b.key, "POST", path+"/"+other.ID, object{"path": m.Path}, 409, api.ErrMemoryPath, m.ID)
		below := ok[api.Memory](b, b.key, "POST", path+"/"+other.ID, object{"path": "/notes/etc/below/itself"})
		if below.ID != other.ID || below.Path != "/notes/etc/below/itself" || below.ContentSHA256 != digest("") {
			t.Errorf("renamed to %+v", below)
		}

		// Content that is not what it was.
		stale := object{"content": "x", "precondition": object{"type": "content_sha256", "content_sha256": digest("stale")}}
		b.refused(b.key, "POST", path+"/"+m.ID, stale, 409, api.ErrMemoryState, "precondition")
		b.refused(b.key, "DELETE", path+"/"+m.ID+"?expected_content_sha256="+digest("stale"), nil, 409, api.ErrMemoryState, "expected_content_sha256")
		b.refused(b.key, "DELETE", path+"/"+m.ID+"?expected_content_sha256=stale", nil, 400, api.ErrInvalidRequest, "expected_content_sha256")
		if there := ok[api.Memory](b, b.key, "GET", path+"/"+m.ID, nil); *there.Content != text || there.MemoryVersionID != m.MemoryVersionID {
			t.Errorf("what was refused has made %+v", there)
		}
		set := ok[api.Memory](b, b.key, "POST", path+"/"+m.ID, object{"content": "new", "precondition": object{"type": "content_sha256", "content_sha256": digest(text)}})
		if set.ContentSHA256 != digest("new") || set.MemoryVersionID == m.MemoryVersionID {
			t.Errorf("set to %+v", set)
		}
		if same := ok[api.Memory](b, b.key, "POST", path+"/"+m.ID, object{"content": "new", "path": m.Path}); same.MemoryVersionID != set.MemoryVersionID || !same.UpdatedAt.Equal(set.UpdatedAt) {
			t.Errorf("what changes nothing has made a version: %+v", same)
		}
		ok[api.Deleted](b, b.key, "DELETE", path+"/"+m.ID+"?expected_content_sha256="+digest("new"), nil)
		b.refused(b.key, "DELETE", path+"/"+m.ID, nil, 404, api.ErrNotFound, m.ID)
		b.refused(b.key, "POST", path+"/"+m.ID, object{"content": "x"}, 404, api.ErrNotFound, m.ID)
		if again := ok[api.Memory](b, b.key, "POST", path, object{"path": m.Path, "content": text}); again.ID == m.ID {
			t.Error("a memory has come back with its id")
		}
	})
}

func TestMemoryPaths(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		path := "/v1/memory_stores/" + b.memoryStore("n").ID + "/memories"
		for name, bad := range map[string]string{
			"empty": "", "relative": "a", "the root": "/", "a directory": "/a/", "an empty segment": "/a//b", "a dot": "/a/./b", "upwards": "/a/../b",
			"21 segments": strings.Repeat("/a", 21), "too long": "/" + strings.Repeat("a", 1024), "a control character": "/a\tb", "a format character": "/a\u200bb",
			"a line separator": "/a\u2028b", "a paragraph separator": "/a\u2029b", "decomposed": "/e\u0301", "the marker": "/.anthropic-memory-store",
		} {
			if e := b.refused(b.key, "POST", path, object{"path": bad, "content": "x"}, 400, api.ErrInvalidRequest, "path:"); e.Message == "" {
				t.Errorf("%s is taken", name)
			}
		}
		for _, good := range []string{"/a", "/A", strings.Repeat("/b", 20), "/" + strings.Repeat("c", 1023), "/.hidden", "/é 日本", "/x/.anthropic-memory-store", "/a.b", "/a b"} {
			if a := b.do(b.key, "POST", path, object{"path": good, "content": "x"}); a.status != http.StatusOK {
				t.Errorf("%q: %d %s", good, a.status, a.body)
			}
		}
		b.refused(b.key, "POST", path, object{"path": "/large", "content": strings.Repeat("é", 51_200) + "x"}, 400, api.ErrInvalidRequest, "content:")
		ok[api.Memory](b, b.key, "POST", path, object{"path": "/large", "content": strings.Repeat("é", 51_200)})
	})
}

func TestListsOfMemories(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		store := b.memoryStore("n").ID
		for _, path := range []string{"/b", "/a/2", "/a-b/1", "/a/1", "/a/deep/er/1", "/a/deep/er/2", "/Z", "/é", "/c/1", "/c.1"} {
			b.remember(store, path, "in "+path)
		}
		walk := func(query string, limit int) (paths []string) {
			for next := ""; ; {
				page := ok[api.Page[api.Memory]](b, b.key, "GET", fmt.Sprintf("/v1/memory_stores/%s/memories?limit=%d&%s%s", store, limit, query, next), nil)
				if len(page.Data) > limit {
					t.Errorf("%s: %d on a page of %d", query, len(page.Data), limit)
				}
				for _, m := range page.Data {
					if directory := strings.HasSuffix(m.Path, "/"); directory != (m.Type == api.TypeMemoryPrefix) || directory != (m.ID == "") {
						t.Errorf("%s: item %+v", query, m)
					}
					if full := strings.Contains(query, "view=full") && m.ID != ""; full != (m.Content != nil) || full && *m.Content != "in "+m.Path {
						t.Errorf("%s: item %+v", query, m)
					}
					paths = append(paths, m.Path)
				}
				if page.NextPage == nil {
					return paths
				}
				next = "&page=" + *page.NextPage
			}
		}
		for query, want := range map[string]string{
			"":                                "/Z /a-b/1 /a/1 /a/2 /a/deep/er/1 /a/deep/er/2 /b /c.1 /c/1 /é",
			"view=full":                       "/Z /a-b/1 /a/1 /a/2 /a/deep/er/1 /a/deep/er/2 /b /c.1 /c/1 /é",
			"depth=0&path_prefix=/a/":         "/a/1 /a/2 /a/deep/er/1 /a/deep/er/2",
			"depth=1":                         "/Z /a-b/ /a/ /b /c.1 /c/ /é",
			"depth=1&path_prefix=/&view=full": "/Z /a-b/ /a/ /b /c.1 /c/ /é",
			"depth=1&path_prefix=/a/":         "/a/1 /a/2 /a/deep/",
			"depth=1&path_prefix=/a/deep/":    "/a/deep/er/",
			"depth=1&path_prefix=/a/deep/er/": "/a/deep/er/1 /a/deep/er/2",
			"path_prefix=/b/":                 "",
		} {
			for _, limit := range []int{1, 2, 3, 20} {
				if got := strings.Join(walk(query, limit), " "); got != want {
					t.Errorf("%s by %d lists %s, want %s", query, limit, got, want)
				}
			}
		}
		for _, bad := range []string{"depth=2", "depth=-1", "path_prefix=/a", "path_prefix=a/", "view=wide", "limit=0", "limit=101"} {
			name, _, _ := strings.Cut(bad, "=")
			b.refused(b.key, "GET", "/v1/memory_stores/"+store+"/memories?"+bad, nil, 400, api.ErrInvalidRequest, name)
		}
		for i := range 21 {
			b.remember(store, fmt.Sprintf("/many/%02d", i), "x")
		}
		for query, want := range map[string]int{"limit=100": 31, "limit=100&view=full": 20, "": 20} {
			if page := ok[api.Page[api.Memory]](b, b.key, "GET", "/v1/memory_stores/"+store+"/memories?"+query, nil); len(page.Data) != want || (page.NextPage == nil) != (want == 31) {
				t.Errorf("%s: %d on the page, want %d", query, len(page.Data), want)
			}
		}
	})
}

// TestMemoryVersions are who did what and when, and can be made to forget what.
func TestMemoryVersions(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		store := "/v1/memory_stores/" + s.ids["memory_store_id"]
		memory := store + "/memories/" + s.ids["memory_id"]
		ok[api.Memory](b, s.token, "POST", memory, object{"content": "three", "path": "/b.md"})
		ok[api.Deleted](b, s.token, "DELETE", memory, nil)
		list := func(query string) []api.MemoryVersion {
			return ok[api.Page[api.MemoryVersion]](b, b.key, "GET", store+"/memory_versions?"+query, nil).Data
		}
		all := list("view=full")
		var told []string
		for _, v := range all {
			told = append(told, strings.Join([]string{v.Operation, *v.Path, fmt.Sprint(v.Content != nil && *v.ContentSHA256 == digest(*v.Content) && *v.ContentSizeBytes == int64(len(*v.Content))), v.CreatedBy.Type, fmt.Sprint(v.CreatedBy.SessionID == s.session.ID, v.CreatedBy.APIKeyID != "")}, " "))
		}
		if want := []string{"deleted /b.md false session_actor true false", "modified /b.md true session_actor true false", "modified /a.md true api_actor false true", "created /a.md true api_actor false true"}; !slices.Equal(told, want) {
			t.Fatalf("the history is %q, want %q", told, want)
		}
		second := all[2].CreatedAt.Format(time.RFC3339Nano)
		for query, want := range map[string]int{
			"memory_id=" + s.ids["memory_id"]: 4, "memory_id=mem_none": 0, "operation=modified": 2, "operation=deleted": 1, "session_id=" + s.session.ID: 2,
			"api_key_id=" + all[3].CreatedBy.APIKeyID: 2, "service_account_id=svac_none": 0, "created_at[lte]=" + second: 2, "created_at[gte]=" + second: 3,
		} {
			if got := list(query); len(got) != want || want > 0 && got[0].Content != nil {
				t.Errorf("%s: %+v, want %d without content", query, got, want)
			}
		}
		b.refused(b.key, "GET", store+"/memory_versions?operation=read", nil, 400, api.ErrInvalidRequest, "operation")

		first := store + "/memory_versions/" + s.ids["memory_version_id"]
		if v := ok[api.MemoryVersion](b, b.key, "GET", first, nil); *v.Content != "one" {
			t.Errorf("the first version holds %q", *v.Content)
		}
		if v := ok[api.MemoryVersion](b, b.key, "GET", first+"?view=basic", nil); v.Content != nil || v.ContentSHA256 == nil {
			t.Errorf("without content it is %+v", v)
		}
		redacted := ok[api.MemoryVersion](b, b.key, "POST", first+"/redact", nil)
		for _, v := range []api.MemoryVersion{redacted, ok[api.MemoryVersion](b, b.key, "GET", first, nil), ok[api.MemoryVersion](b, b.key, "POST", first+"/redact", nil)} {
			if v.Content != nil || v.Path != nil || v.ContentSHA256 != nil || v.ContentSizeBytes != nil || !v.RedactedAt.Equal(*redacted.RedactedAt) || v.RedactedBy.Type != api.ActorAPI || v.CreatedBy.Type != api.ActorAPI {
				raw, _ := json.Marshal(v) // it came as JSON
				t.Errorf("redacted: %s", raw)
			}
		}
		m := s.remember("{memory_store_id}", "/c", "current")
		b.refused(b.key, "POST", store+"/memory_versions/"+m.MemoryVersionID+"/redact", nil, 400, api.ErrInvalidRequest, m.ID)
		ok[api.Memory](b, b.key, "POST", store+"/memories/"+m.ID, object{"content": "later"})
		ok[api.MemoryVersion](b, b.key, "POST", store+"/memory_versions/"+m.MemoryVersionID+"/redact", nil)
		if left := ok[api.Memory](b, b.key, "GET", store+"/memories/"+m.ID, nil); *left.Content != "later" {
			t.Errorf("the memory holds %q", *left.Content)
		}
	})
}

// TestMemoriesOfASession are all that its worker may touch.
func TestMemoriesOfASession(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		key := b.envKey(env.ID, nil)
		store := ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores", object{"name": "The Team's notes", "description": "how we work"}).ID
		readOnly, absent, twin := b.memoryStore("Rules").ID, b.memoryStore("secret").ID, b.memoryStore("the team-s notes").ID
		foreign := b.memoryStore("日本").ID
		rule := b.remember(readOnly, "/rule", "be kind")
		session := ok[api.Session](b, b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "initial_events": []object{message("$ true")}, "resources": []object{
			{"type": "memory_store", "memory_store_id": store, "instructions": "look first"}, {"type": "memory_store", "memory_store_id": readOnly, "access": "read_only"},
			{"type": "memory_store", "memory_store_id": twin}, {"type": "memory_store", "memory_store_id": foreign},
		}})
		var got []string
		for _, raw := range session.Resources {
			var r api.MemoryResource
			must(t, json.Unmarshal(raw, &r))
			instructions := ""
			if r.Instructions != nil {
				instructions = *r.Instructions
			}
			got = append(got, strings.Join([]string{r.MountPath, r.Access, r.Name, r.Description, instructions}, "|"))
		}
		if want := []string{
			"/mnt/memory/the-team-s-notes|read_write|The Team's notes|how we work|look first", "/mnt/memory/rules|read_only|Rules||",
			"/mnt/memory/the-team-s-notes-2|read_write|the team-s notes||", "/mnt/memory/" + foreign + "|read_write|日本||",
		}; !slices.Equal(got, want) {
			t.Errorf("mounted are\n%q, want\n%q", got, want)
		}
		_, token := b.claimed(key.Key, env.ID)
		at := func(id string) string { return "/v1/memory_stores/" + id + "/memories" }
		m := ok[api.Memory](b, token, "POST", at(store), object{"path": "/a", "content": "x"})
		if list := ok[api.Page[api.Memory]](b, token, "GET", at(store), nil); len(list.Data) != 1 || list.Data[0].ID != m.ID {
			t.Errorf("the worker does not see what it wrote: %+v", list)
		}
		ok[api.Memory](b, token, "GET", at(readOnly)+"/"+rule.ID, nil)
		b.refused(token, "POST", at(readOnly), object{"path": "/b", "content": "x"}, 403, api.ErrPermission, "read only")
		b.refused(token, "POST", at(readOnly)+"/"+rule.ID, object{"content": "be unkind"}, 403, api.ErrPermission, "read only")
		b.refused(token, "DELETE", at(readOnly)+"/"+rule.ID, nil, 403, api.ErrPermission, "read only")
		b.refused(token, "GET", at(absent), nil, 404, api.ErrNotFound, absent)
		b.refused(token, "GET", at(store)+"/"+rule.ID, nil, 404, api.ErrNotFound, rule.ID)

		other := b.session(agent.ID, env.ID)
		list := func(query string) (ids []string) {
			for _, one := range ok[api.Page[api.Session]](b, b.key, "GET", "/v1/sessions"+query, nil).Data {
				ids = append(ids, one.ID)
			}
			return ids
		}
		for query, want := range map[string][]string{"?memory_store_id=" + store: {session.ID}, "?memory_store_id=" + readOnly: {session.ID}, "?memory_store_id=" + absent: nil, "": {other.ID, session.ID}} {
			if got := list(query); !slices.Equal(got, want) {
				t.Errorf("sessions%s: %q, want %q", query, got, want)
			}
		}
		ok[api.Deleted](b, b.key, "DELETE", "/v1/memory_stores/"+store, nil)
		b.refused(token, "GET", at(store), nil, 404, api.ErrNotFound, store)
	})
}

func TestBadMemoryResources(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		store := b.memoryStore("n").ID
		with := func(fields object) object {
			fields["type"] = "memory_store"
			return fields
		}
		nine := []object{}
		for range 9 {
			nine = append(nine, with(object{"memory_store_id": b.memoryStore("n").ID}))
		}
		for name, bad := range map[string]struct {
			resources []object
			status    int
			want      string
		}{
			"no store":              {[]object{with(object{})}, 400, "resources[0].memory_store_id"},
			"an unknown store":      {[]object{with(object{"memory_store_id": "memstore_none"})}, 404, "memstore_none"},
			"an unknown access":     {[]object{with(object{"memory_store_id": store, "access": "write"})}, 400, "resources[0].access"},
			"too many instructions": {[]object{with(object{"memory_store_id": store, "instructions": strings.Repeat("é", 4097)})}, 400, "resources[0].instructions"},
			"twice":                 {[]object{with(object{"memory_store_id": store}), with(object{"memory_store_id": store})}, 400, "resources[1].memory_store_id"},
			"nine":                  {nine, 400, "resources[8]"},
		} {
			a := b.do(b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "resources": bad.resources})
			if a.status != bad.status || !strings.Contains(a.failure().Message, bad.want) {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		made := ok[api.Session](b, b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "resources": nine[:8]})
		if len(made.Resources) != 8 {
			t.Errorf("%d stores are mounted", len(made.Resources))
		}
		b.refused(b.key, "POST", "/v1/sessions/"+made.ID+"/resources", with(object{"memory_store_id": store}), 400, api.ErrInvalidRequest, "created")
	})
}
