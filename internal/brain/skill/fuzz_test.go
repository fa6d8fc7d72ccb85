package skill

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"hearth/api"
)

// seed packs members, each with its mode and content.
func seed(t testing.TB, members ...any) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for i := 0; i < len(members); i += 3 {
		h := &zip.FileHeader{Name: members[i].(string), Method: zip.Deflate}
		h.SetMode(members[i+1].(fs.FileMode))
		m, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(m, members[i+2].(string)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const goodManifest = "---\nname: good\ndescription: Good.\n---\n"

// FuzzZip: whatever an archive holds, it is refused with a 400, or packed into
// one that a worker can unpack without looking twice.
func FuzzZip(f *testing.F) {
	plain := seed(f, "d/SKILL.md", fs.FileMode(0o644), goodManifest, "d/bin/x", fs.FileMode(0o755), "#!/bin/sh\n")
	f.Add(plain)
	f.Add(plain[:len(plain)-30])
	f.Add(seed(f, "d/SKILL.md", fs.FileMode(0o644), goodManifest, "d/../../x", fs.FileMode(0o644), "x"))
	f.Add(seed(f, "d/SKILL.md", fs.FileMode(0o644), goodManifest, "d/l", fs.ModeSymlink|0o777, "/etc/passwd"))
	f.Add(seed(f, "d/SKILL.md", fs.FileMode(0o644), goodManifest, "d/zeros", fs.FileMode(0o644), strings.Repeat("\x00", 2<<20)))
	f.Add(seed(f, "d/SKILL.md", fs.FileMode(0o644), "---\na: &a [x, x]\nb: *a\nname: n\ndescription: \"\\0\"\n---\n"))
	f.Add(seed(f, "d/", fs.ModeDir|0o755, "", "d/skill.md", fs.FileMode(0o644), goodManifest, "D/a", fs.FileMode(0o644), ""))
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if err := u.Add("a.zip", bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		packed, name, err := repack(u)
		var wire *api.Error
		if errors.As(err, &wire) && wire.Status == 400 {
			return
		}
		if err != nil {
			t.Fatalf("refused, though not as an archive: %v", err)
		}
		checkPacked(t, packed, name)
	})
}

// repack does with an upload what the store does.
func repack(u *Upload) (packed []byte, name string, err error) {
	entries, err := u.entries()
	if err != nil {
		return nil, "", err
	}
	b, err := bundleOf(entries)
	if err != nil {
		return nil, "", err
	}
	m, err := b.manifest()
	if err != nil {
		return nil, "", err
	}
	var out bytes.Buffer
	err = b.pack(&out, m.name)
	return out.Bytes(), m.name, err
}

func checkPacked(t *testing.T, packed []byte, name string) {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(packed, []byte("PK\x03\x04")) || !isSlug(name) || len(archive.File) > MaxFiles {
		t.Fatalf("packed as %q: %d files, %q", name, len(archive.File), packed[:4])
	}
	seen := map[string]bool{}
	for _, m := range archive.File {
		if !fs.ValidPath(m.Name) || !strings.HasPrefix(m.Name, name+"/") || !m.Mode().IsRegular() || strings.Contains(m.Name, `\`) || seen[strings.ToLower(m.Name)] {
			t.Errorf("it holds %q with the mode %v", m.Name, m.Mode())
		}
		seen[strings.ToLower(m.Name)] = true
		in, err := m.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			t.Errorf("%q: %v", m.Name, err)
		}
	}
	if !seen[name+"/skill.md"] {
		t.Error("there is no SKILL.md")
	}
}
