package mount

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
	m, err := New(Config{SessionID: "sesn_1", Dir: t.TempDir(), Work: t.TempDir(), Mnt: mnt, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
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
