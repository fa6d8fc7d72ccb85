package seal

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gocloud.dev/secrets/localsecrets"
	"pgregory.net/rapid"

	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

func sealer(t *testing.T, d *db.DB, master byte) *Sealer {
	t.Helper()
	s, err := New(t.Context(), d, localsecrets.NewKeeper([32]byte{master}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatIsSealedOpensAtItsPlaceOnly(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := sealer(t, d, 1)
		rapid.Check(t, func(r *rapid.T) {
			text, place := rapid.String().Draw(r, "text"), rapid.StringN(1, 20, -1).Draw(r, "place")
			sealed := s.Seal(place, text)
			if len(text) > 8 && strings.Contains(sealed, text) {
				r.Fatal("the text is in what was sealed")
			}
			if got, err := s.Open(t.Context(), place, sealed); err != nil || got != text {
				r.Fatalf("opened %q, %v", got, err)
			}
			if _, err := s.Open(t.Context(), place+"x", sealed); err == nil {
				r.Fatal("it opens elsewhere")
			}
			raw := []byte(sealed)
			raw[rapid.IntRange(0, len(raw)-2).Draw(r, "at")] ^= 1
			if got, err := s.Open(t.Context(), place, string(raw)); err == nil {
				r.Fatalf("a changed one opens, as %q", got)
			}
		})
	})
}

func TestKeysOutliveTheServerAndRotation(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		first := sealer(t, d, 1)
		old := first.Seal("a", "old")
		if err := first.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		fresh := first.Seal("a", "new")
		if id, _, _ := strings.Cut(old, "."); strings.HasPrefix(fresh, id+".") {
			t.Error("after a rotation the old key still seals")
		}
		second := sealer(t, d, 1)
		for sealed, want := range map[string]string{old: "old", fresh: "new"} {
			if got, err := second.Open(t.Context(), "a", sealed); err != nil || got != want {
				t.Errorf("another server opens %q, %v; want %q", got, err, want)
			}
		}
		if _, err := New(t.Context(), d, localsecrets.NewKeeper([32]byte{2})); err == nil || !strings.Contains(err.Error(), "master key") {
			t.Errorf("with another master key: %v", err)
		}
	})
}

func TestMasterKeys(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	for range 2 {
		if err := EnsureMaster(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenMaster(t.Context(), path); err != nil {
		t.Error(err)
	}
	if _, err := OpenMaster(t.Context(), "file://"+path); err != nil {
		t.Error(err)
	}
	t.Setenv("HEARTH_TEST_MASTER", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	if _, err := OpenMaster(t.Context(), "env:HEARTH_TEST_MASTER"); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("c2hvcnQ="), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{path: "chmod 600", short: "openssl", filepath.Join(dir, "none"): "no such file", "env:HEARTH_TEST_NONE": "openssl", "nowhere://x": "nowhere"} {
		if _, err := OpenMaster(t.Context(), address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q in it", address, err, want)
		}
	}
}
