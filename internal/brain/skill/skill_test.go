package skill

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob"

	"hearth/api"
	blobstore "hearth/internal/blob"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

func open(t *testing.T, d *db.DB) *Store {
	t.Helper()
	bucket, err := blobstore.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bucket.Close() })
	s, err := New(t.Context(), Config{DB: d, Blobs: bucket})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func begin(t *testing.T, name string) *Upload {
	t.Helper()
	u, err := Begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	if err := u.Add(name+"/SKILL.md", strings.NewReader("---\ndescription: x\n---\n")); err != nil {
		t.Fatal(err)
	}
	return u
}

func (s *Store) stored(t *testing.T) (ids []string) {
	t.Helper()
	for list := s.bodies.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(t.Context())
		if errors.Is(err, io.EOF) {
			slices.Sort(ids)
			return ids
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, strings.TrimPrefix(object.Key, prefix))
	}
}

// TestSweep: an archive whose upload was cut short after it was stored goes, and
// no other.
func TestSweep(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		made, err := s.Create(t.Context(), "w", nil, begin(t, "one"))
		if err != nil {
			t.Fatal(err)
		}
		left, err := s.receive(t.Context(), begin(t, "two"))
		if err != nil {
			t.Fatal(err)
		}
		sweep := func(want ...string) {
			t.Helper()
			if err := s.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			slices.Sort(want)
			if got := s.stored(t); !slices.Equal(got, want) {
				t.Errorf("after a sweep there are %q, want %q", got, want)
			}
		}
		sweep(made.LatestVersionID, left.ID) // which may be on its way still
		s.now = func() time.Time { return time.Now().Add(upload + time.Minute) }
		sweep(made.LatestVersionID)
		if err := s.Delete(t.Context(), "w", made.ID); err != nil {
			t.Fatal(err)
		}
		sweep()
	})
}

// TestAtOnce: of uploads at the same time, one gets the name, and each version
// its number; and the last version stays.
func TestAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		const n = 8
		all := func(do func(i int) error) (failed int) {
			outcomes := make(chan error)
			for i := range n {
				go func() { outcomes <- do(i) }()
			}
			for range n {
				var wire *api.Error
				if err := <-outcomes; errors.As(err, &wire) && wire.Status == 409 {
					failed++
				} else if err != nil {
					t.Error(err)
				}
			}
			return failed
		}
		uploads := make([]*Upload, 2*n)
		for i := range uploads {
			uploads[i] = begin(t, "one")
		}
		if failed := all(func(i int) error { _, err := s.Create(t.Context(), "w", nil, uploads[i]); return err }); failed != n-1 {
			t.Errorf("%d of %d could not have the name", failed, n)
		}
		if _, err := s.Create(t.Context(), "another", nil, begin(t, "one")); err != nil {
			t.Errorf("in another workspace: %v", err)
		}
		skills, _, err := s.List(t.Context(), "w", "", 10)
		if err != nil || len(skills) != 1 {
			t.Fatalf("there are %+v, %v", skills, err)
		}
		id := skills[0].ID
		if failed := all(func(i int) error { _, err := s.AddVersion(t.Context(), "w", id, uploads[n+i]); return err }); failed != 0 {
			t.Errorf("%d of %d versions could not be added", failed, n)
		}
		versions, _, err := s.Versions(t.Context(), "w", id, 0, 100)
		if err != nil || len(versions) != n+1 || versions[0].Number != n+1 {
			t.Fatalf("there are %+v, %v", versions, err)
		}
		if failed := all(func(i int) error { return s.DeleteVersion(t.Context(), "w", id, versions[i].ID) }); failed != 0 {
			t.Errorf("%d of %d versions could not be deleted", failed, n)
		}
		if got := s.stored(t); len(got) != 2 {
			t.Errorf("stored are %q", got)
		}
	})
}
