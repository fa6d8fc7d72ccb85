package mount

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hearth/api"
)

// TestOutputsFound looks through outputs that were made to take long: directories
// nested deep, and more files than are looked at. What is beside them is found.
func TestOutputsFound(t *testing.T) {
	mnt := t.TempDir()
	outputs := filepath.Join(mnt, outputsName)
	deep := filepath.Join(outputs, strings.Repeat("d/", 300))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(deep, "lost"), filepath.Join(outputs, "report"), filepath.Join(outputs, "d", "other")} {
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, root := collector(t, mnt, 0)
	names, err := m.changed(root)
	slices.Sort(names)
	if want := []string{"d/other", "report"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("found %q, %v, want %q", names, err, want)
	}
	for i := range maxOutputs {
		if err := os.WriteFile(filepath.Join(outputs, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if names, err = m.changed(root); err == nil || len(names) != maxOutputs {
		t.Errorf("found %d of more than are taken, %v", len(names), err)
	}
}

// collector is a Mounter for the outputs below a directory, and that directory.
func collector(t *testing.T, mnt string, disk int64) (*Mounter, *os.Root) {
	t.Helper()
	m, err := New(Config{SessionID: "sesn_1", Dir: t.TempDir(), Work: t.TempDir(), Mnt: mnt, Disk: disk, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(mnt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return m, root
}

// TestOutputsHollow leaves outputs that take nothing here, and would take terabytes
// of the server's.
func TestOutputsHollow(t *testing.T) {
	mnt := t.TempDir()
	outputs := filepath.Join(mnt, outputsName)
	if err := os.MkdirAll(outputs, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		name := filepath.Join(outputs, fmt.Sprint(i))
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, 400<<20); err != nil {
			t.Fatal(err)
		}
	}
	m, root := collector(t, mnt, 1<<30)
	if names, err := m.changed(root); err == nil || len(names) != 2 {
		t.Errorf("found %d, %v", len(names), err)
	}
}

// inbox counts what is uploaded, and takes it.
type inbox struct {
	*remote
	uploads int
	removed []string
}

func (i *inbox) Upload(_ context.Context, _, _ string, form io.Reader, _ int64, out any) error {
	if _, err := io.Copy(io.Discard, form); err != nil {
		return err
	}
	i.uploads++
	out.(*api.File).ID = fmt.Sprint("file_", i.uploads)
	return nil
}

func (i *inbox) Do(_ context.Context, method, path string, _, _ any) error {
	i.removed = append(i.removed, method+" "+path)
	return nil
}

// TestOutputsKnownAgain has a second mounter collect what the first has: names that
// are no text, and names that look like what those become on their way through JSON.
// Of a list that an earlier version has written the plain names are known.
func TestOutputsKnownAgain(t *testing.T) {
	cfg := Config{SessionID: "sesn_1", Dir: t.TempDir(), Work: t.TempDir(), Mnt: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	outputs := filepath.Join(cfg.Mnt, outputsName)
	if err := os.MkdirAll(filepath.Join(outputs, "d\xff"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"b\xe9ta", "b\xeata", "b\ufffdta", `b\xe9ta`, `"b\xe9ta"`, "bêta", "d\xff/plain"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(outputs, name), []byte("x"), 0o644); err != nil {
			t.Skipf("this file system takes no such names: %v", err)
		}
	}
	const old = "of an earlier version & <more>"
	if err := os.WriteFile(filepath.Join(outputs, old), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(outputs, old))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]output{old: {"file_0", info.Size(), info.ModTime()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, outputsFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}

	collect := func() *inbox {
		t.Helper()
		server := &inbox{}
		cfg.Server = server
		m, err := New(cfg)
		if err == nil {
			err = m.Collect(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	if first := collect(); first.uploads != len(names) || len(first.removed) > 0 {
		t.Errorf("at first %d are uploaded, not %d, and it asks for %q", first.uploads, len(names), first.removed)
	}
	if second := collect(); second.uploads > 0 || len(second.removed) > 0 {
		t.Errorf("the second time %d are uploaded again, and it asks for %q", second.uploads, second.removed)
	}
	if err := os.WriteFile(filepath.Join(outputs, names[0]), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if third := collect(); third.uploads != 1 || len(third.removed) != 1 {
		t.Errorf("of one that has changed %d are uploaded, and it asks for %q", third.uploads, third.removed)
	}
}
