package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"path"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

var fileVerdicts = map[string]verdict{
	"POST /v1/files":                                              {apiKey: 200, role: auth.RoleDeveloper, envKey: 403, othersKey: 403, token: 200, othersToken: 200, files: map[string]string{"file": "content"}},
	"GET /v1/files":                                               forRole(auth.RoleViewer, ""),
	"GET /v1/files/{file_id}":                                     {apiKey: 200, role: auth.RoleViewer, envKey: 403, othersKey: 403, token: 200, othersToken: 404},
	"GET /v1/files/{file_id}/content":                             {apiKey: 200, role: auth.RoleViewer, envKey: 403, othersKey: 403, token: 200, othersToken: 404},
	"DELETE /v1/files/{file_id}":                                  {apiKey: 200, role: auth.RoleDeveloper, envKey: 403, othersKey: 403, token: 404, othersToken: 404},
	"GET /v1/sessions/{session_id}/resources":                     ofTheSession(auth.RoleViewer, ""),
	"POST /v1/sessions/{session_id}/resources":                    forRole(auth.RoleDeveloper, `{"type":"file","file_id":"{file_id}","mount_path":"other"}`),
	"GET /v1/sessions/{session_id}/resources/{resource_id}":       forRole(auth.RoleViewer, ""),
	"POST /v1/sessions/{session_id}/resources/{resource_id}":      forRole(auth.RoleDeveloper, `{"authorization_token":"x"}`),
	"DELETE /v1/sessions/{session_id}/resources/{resource_id}":    forRole(auth.RoleDeveloper, ""),
	"GET /v1/sessions/{session_id}/resources/{resource_id}/token": {apiKey: 403, envKey: 200, othersKey: 404, token: 200, othersToken: 404},
	"POST /v1/sessions/{session_id}/reports":                      {apiKey: 403, envKey: 200, othersKey: 404, token: 200, othersToken: 404, body: `{"message":"could not"}`},
}

// addFiles mounts a file in the site's session, which has a repository already.
func (s *site) addFiles() {
	s.t.Helper()
	f := s.file("data.csv", "a,b\n1,2\n")
	ok[api.FileResource](s.brain, s.brain.key, "POST", "/v1/sessions/"+s.session.ID+"/resources", object{"type": "file", "file_id": f.ID})
	there := ok[api.Page[object]](s.brain, s.brain.key, "GET", "/v1/sessions/"+s.session.ID+"/resources", nil)
	s.ids["file_id"], s.ids["resource_id"] = f.ID, there.Data[0]["id"].(string)
}

// file uploads a file.
func (b *brain) file(name, content string) api.File {
	b.t.Helper()
	body, kind := formOf(part{"file", name, content})
	a := b.post(b.key, body, kind)
	if a.status != http.StatusOK {
		b.t.Fatalf("upload %s: %d %s", name, a.status, a.body)
	}
	var f api.File
	must(b.t, json.Unmarshal(a.body, &f))
	return f
}

type part struct{ field, filename, content string }

// formOf is a multipart body and its content type.
func formOf(parts ...part) (body []byte, contentType string) {
	var buffer bytes.Buffer
	w := multipart.NewWriter(&buffer)
	for _, p := range parts {
		h := textproto.MIMEHeader{}
		disposition := fmt.Sprintf("form-data; name=%q", p.field)
		if p.filename != "" {
			disposition += `; filename="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p.filename) + `"`
			h.Set("Content-Type", "text/plain")
		}
		h.Set("Content-Disposition", disposition)
		out, _ := w.CreatePart(h)             // writes to memory
		_, _ = io.WriteString(out, p.content) // as well
	}
	_ = w.Close()
	return buffer.Bytes(), w.FormDataContentType()
}

func (b *brain) post(credential string, body []byte, contentType string) answer {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.ctx, "POST", b.url+"/v1/files", bytes.NewReader(body))
	must(b.t, err)
	request.Header.Set("x-api-key", credential)
	request.Header.Set("Content-Type", contentType)
	response, err := b.http.Do(request)
	must(b.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must(b.t, err)
	return answer{status: response.StatusCode, header: response.Header, body: raw}
}

func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		f := b.file("data.csv", "0123456789")
		if f.SizeBytes != 10 || f.MIMEType != "text/plain" || f.Filename != "data.csv" || f.Scope != nil || !f.Downloadable {
			t.Errorf("uploaded: %+v", f)
		}
		got := b.do(b.key, "GET", "/v1/files/"+f.ID+"/content", nil)
		if got.status != 200 || string(got.body) != "0123456789" {
			t.Errorf("content: %d %q", got.status, got.body)
		}
		if d := got.header.Get("Content-Disposition"); d != `attachment; filename=data.csv` {
			t.Errorf("disposition %q", d)
		}
		request, err := http.NewRequestWithContext(b.ctx, "GET", b.url+"/v1/files/"+f.ID+"/content", nil)
		must(t, err)
		request.Header.Set("x-api-key", b.key)
		request.Header.Set("Range", "bytes=3-5")
		// Past the check against the contract, which does not know ranges.
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		defer response.Body.Close()
		if raw, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusPartialContent || string(raw) != "345" {
			t.Errorf("a range: %d %q %v", response.StatusCode, raw, err)
		}

		other := b.file("b.txt", "")
		list := ok[api.Page[api.File]](b, b.key, "GET", "/v1/files?limit=1", nil)
		if len(list.Data) != 1 || list.Data[0].ID != other.ID || list.NextPage == nil {
			t.Fatalf("the first page: %+v", list)
		}
		list = ok[api.Page[api.File]](b, b.key, "GET", "/v1/files?limit=1&page="+*list.NextPage, nil)
		if len(list.Data) != 1 || list.Data[0].ID != f.ID || list.NextPage != nil {
			t.Errorf("the second page: %+v", list)
		}
		list = ok[api.Page[api.File]](b, b.key, "GET", "/v1/files?ids[]="+f.ID, nil)
		if len(list.Data) != 1 || list.Data[0].ID != f.ID {
			t.Errorf("by id: %+v", list)
		}

		ok[api.Deleted](b, b.key, "DELETE", "/v1/files/"+f.ID, nil)
		if got := b.do(b.key, "GET", "/v1/files/"+f.ID+"/content", nil); got.status != http.StatusNotFound {
			t.Errorf("a deleted file answers %d", got.status)
		}
	})
}

func TestFileExpiry(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		body, kind := formOf(part{"file", "a", "x"}, part{"expires_in_seconds", "", "3600"})
		a := b.post(b.key, body, kind)
		var f api.File
		must(t, json.Unmarshal(a.body, &f))
		if f.ExpiresAt == nil || !f.ExpiresAt.Equal(f.CreatedAt.Add(time.Hour)) {
			t.Errorf("expires at %v", f.ExpiresAt)
		}
	})
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

func TestNamesOfFiles(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for given, want := range map[string]string{"a.txt": "a.txt", "dir/sub/a.txt": "a.txt", "../../etc/passwd": "passwd", "a b é.txt": "a b é.txt", "": "unnamed*"} { // the host knows the extension

			body, kind := formOf(part{"file", given, "x"})
			a := b.post(b.key, body, kind)
			var f api.File
			must(t, json.Unmarshal(a.body, &f))
			if a.status != http.StatusOK || !matches(want, f.Filename) {
				t.Errorf("%q: %d, became %q, want %q", given, a.status, f.Filename, want)
			}
		}
	})
}

func TestBadForms(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		good, kind := formOf(part{"file", "a", "x"})
		for name, bad := range map[string]struct {
			parts []part
			want  string
		}{
			"nothing":       {nil, "file"},
			"upwards":       {[]part{{"file", "a/..", "x"}}, "filename"},
			"control":       {[]part{{"file", "a\x01b", "x"}}, "filename"},
			"long":          {[]part{{"file", strings.Repeat("é", 256), "x"}}, "filename"},
			"twice":         {[]part{{"file", "a", "x"}, {"file", "b", "x"}}, "twice"},
			"another field": {[]part{{"file", "a", "x"}, {"purpose", "", "x"}}, "purpose"},
			"too soon":      {[]part{{"file", "a", "x"}, {"expires_in_seconds", "", "3599"}}, "expires_in_seconds"},
			"not a number":  {[]part{{"file", "a", "x"}, {"expires_in_seconds", "", "soon"}}, "expires_in_seconds"},
			"negative":      {[]part{{"file", "a", "x"}, {"expires_in_seconds", "", "-1"}}, "expires_in_seconds"},
		} {
			body, kind := formOf(bad.parts...)
			if a := b.post(b.key, body, kind); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), bad.want) {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		for name, kind := range map[string]string{"JSON": "application/json", "no boundary": "multipart/form-data", "another boundary": "multipart/form-data; boundary=other"} {
			if a := b.post(b.key, good, kind); a.status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		for n := range len(good) - 2 { // the last two bytes end the last line
			if a := b.post(b.key, good[:n], kind); a.status != http.StatusBadRequest {
				t.Errorf("cut after %d of %d bytes, %q: %d %s", n, len(good), good[n:], a.status, a.body)
			}
		}
		if list := ok[api.Page[api.File]](b, b.key, "GET", "/v1/files", nil); len(list.Data) != 0 {
			t.Errorf("bad forms have left files: %+v", list.Data)
		}
	})
}

func TestResources(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		f := b.file("data.csv", "x")
		const token = "ghp_a-token-nobody-may-see"
		b.keepSecret(token)
		session := ok[api.Session](b, b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "resources": []object{
			{"type": "file", "file_id": f.ID, "mount_path": "/in/data.csv"},
			{"type": "github_repository", "url": "https://git.example.com/team/tool.git", "authorization_token": token, "checkout": object{"type": "branch", "name": "main"}},
		}})
		path := "/v1/sessions/" + session.ID + "/resources"
		list := ok[api.Page[object]](b, b.key, "GET", path, nil)
		if len(list.Data) != 2 || list.Data[0]["mount_path"] != "/mnt/session/uploads/in/data.csv" || list.Data[1]["mount_path"] != "/workspace/tool" {
			t.Fatalf("resources: %v", list.Data)
		}
		if strings.Contains(fmt.Sprint(list.Data), token) {
			t.Error("the token is shown")
		}
		first := ok[api.Page[object]](b, b.key, "GET", path+"?limit=1", nil)
		if len(first.Data) != 1 || first.NextPage == nil {
			t.Errorf("a page of one: %+v", first)
		} else if rest := ok[api.Page[object]](b, b.key, "GET", path+"?page="+*first.NextPage, nil); len(rest.Data) != 1 || rest.NextPage != nil {
			t.Errorf("the rest: %+v", rest)
		}
		repository := path + "/" + list.Data[1]["id"].(string)
		ok[object](b, b.key, "POST", repository, object{"authorization_token": "another-token-nobody-may-see"})
		added := ok[api.FileResource](b, b.key, "POST", path, object{"type": "file", "file_id": f.ID})
		if added.MountPath != "/mnt/session/uploads/"+f.ID {
			t.Errorf("added at %s", added.MountPath)
		}
		if got := ok[api.FileResource](b, b.key, "GET", path+"/"+added.ID, nil); got != added {
			t.Errorf("read back %+v, want %+v", got, added)
		}
		ok[api.Deleted](b, b.key, "DELETE", path+"/"+added.ID, nil)
		if list := ok[api.Page[object]](b, b.key, "GET", path, nil); len(list.Data) != 2 {
			t.Errorf("after the deletion: %v", list.Data)
		}
		for name, bad := range map[string]object{
			"no type":        {"file_id": f.ID},
			"no file":        {"type": "file", "file_id": "file_none"},
			"the same place": {"type": "file", "file_id": f.ID, "mount_path": "in/data.csv"},
			"below a file":   {"type": "file", "file_id": f.ID, "mount_path": "in/data.csv/x"},
			"above a file":   {"type": "file", "file_id": f.ID, "mount_path": "in"},
			"upwards":        {"type": "file", "file_id": f.ID, "mount_path": "../x"},
			"a repository":   {"type": "github_repository", "url": "https://git.example.com/team/tool2"},
		} {
			if a := b.do(b.key, "POST", path, bad); a.status != 400 && a.status != 404 {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		for name, bad := range map[string]object{
			"ssh":             {"url": "ssh://git@example.com/x"},
			"a password":      {"url": "https://me:pw@example.com/x"},
			"no name":         {"url": "https://example.com/"},
			"outside":         {"url": "https://example.com/x", "mount_path": "/etc/x"},
			"an option":       {"url": "https://example.com/x", "checkout": object{"type": "branch", "name": "--upload-pack=x"}},
			"a short commit":  {"url": "https://example.com/x", "checkout": object{"type": "commit", "sha": "abc"}},
			"an unknown kind": {"url": "https://example.com/x", "checkout": object{"type": "tag", "name": "v1"}},
			"a line break":    {"url": "https://example.com/x", "authorization_token": "a\nb"},
		} {
			bad["type"] = "github_repository"
			if a := b.do(b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "resources": []object{bad}}); a.status != 400 || !strings.Contains(string(a.body), "resources[0]") {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
	})
}

// TestSessionFiles are scoped to their session, and gone with it.
func TestSessionFiles(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		body, kind := formOf(part{"file", "report.pdf", "%PDF"})
		a := b.post(s.token, body, kind)
		var f api.File
		must(t, json.Unmarshal(a.body, &f))
		if f.Scope == nil || f.Scope.ID != s.session.ID {
			t.Fatalf("a worker's file: %d %s", a.status, a.body)
		}
		list := ok[api.Page[api.File]](b, b.key, "GET", "/v1/files?scope_id="+s.session.ID, nil)
		if len(list.Data) != 1 || list.Data[0].ID != f.ID {
			t.Errorf("by scope: %+v", list.Data)
		}
		ok[api.Session](b, b.key, "POST", "/v1/sessions/"+s.session.ID+"/archive", nil)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/sessions/"+s.session.ID, nil)
		if got := b.do(b.key, "GET", "/v1/files/"+f.ID, nil); got.status != http.StatusNotFound {
			t.Errorf("the file of a deleted session answers %d", got.status)
		}
	})
}
