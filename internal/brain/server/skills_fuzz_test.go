package server

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"

	"hearth/api"
	"hearth/internal/brain/skill"
	"hearth/internal/db"
)

// FuzzMultipart: whatever a form holds, it is refused with a 400, or its end has
// been seen and a skill is made of it that can be read again.
func FuzzMultipart(f *testing.F) {
	d, err := db.Open(f.Context(), db.Config{URL: "sqlite://" + filepath.Join(f.TempDir(), "fuzz.db")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { d.Close() })
	blobs := memblob.OpenBucket(nil)
	f.Cleanup(func() { blobs.Close() })
	skills, err := skill.New(f.Context(), skill.Config{DB: d, Blobs: blobs})
	if err != nil {
		f.Fatal(err)
	}
	const file = "--b\r\nContent-Disposition: form-data; name=\"files[]\"; filename=\"%s\"\r\n\r\n%s\r\n"
	manifest := "---\nname: n\ndescription: d\n---\n"
	part := func(name, content string) string {
		return strings.Replace(strings.Replace(file, "%s", name, 1), "%s", content, 1)
	}
	whole := part("n/SKILL.md", manifest) + part("n/a/b", "x") + "--b\r\nContent-Disposition: form-data; name=\"display_name\"\r\n\r\nN\r\n--b--\r\n"
	for _, seed := range []string{
		whole, whole[:len(whole)/2], part("n/SKILL.md", manifest) + part("../x", "y") + "--b--", part("", manifest) + "--b--\r\n", part(`n\"/SKILL.md`, manifest) + "--b--",
		part("n/SKILL.md", manifest) + part("n/skill.md", "") + "--b--", part("x.zip", zipOf(f, "n/SKILL.md", manifest, "n/run!", "x")) + "--b--\r\nafter",
		"--b\r\nContent-Disposition: form-data; name=\"files[]\"; filename*=UTF-8''n%2FSKILL.md\r\nContent-Transfer-Encoding: base64\r\n\r\nAA==\r\n--b--", "--b--",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		hr := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/skills", bytes.NewReader(body))
		hr.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		form, err := (&request{Request: hr}).form()
		if err != nil {
			t.Fatal(err)
		}
		upload, label, err := skillForm(form, true)
		if toldWhy(t, err) {
			return
		}
		defer upload.Close()
		if !bytes.Contains(body, []byte("--b--")) {
			t.Errorf("a form without an end was read")
		}
		made, err := skills.Create(t.Context(), "w", label, upload)
		if toldWhy(t, err) {
			return
		}
		v, archive, err := skills.Open(t.Context(), "w", made.ID, made.LatestVersionID)
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		raw, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		packed, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
		if err != nil || len(packed.File) == 0 {
			t.Fatalf("the archive cannot be read: %v", err)
		}
		for _, m := range packed.File {
			if !strings.HasPrefix(m.Name, v.Name+"/") || !filepath.IsLocal(m.Name) {
				t.Errorf("the archive has the member %q", m.Name)
			}
		}
		if err := skills.Delete(t.Context(), "w", made.ID); err != nil {
			t.Fatal(err)
		}
	})
}

// toldWhy tells of an error that a client is told, and fails for any other.
func toldWhy(t *testing.T, err error) bool {
	t.Helper()
	var wire *api.Error
	if err != nil && (!errors.As(err, &wire) || wire.Status != 400) {
		t.Fatalf("refused with %v", err)
	}
	return err != nil
}
