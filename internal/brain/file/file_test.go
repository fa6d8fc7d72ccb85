package file

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"gocloud.dev/blob"

	"hearth/api"
	blobstore "hearth/internal/blob"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// shelf is a store whose clock can be set, and in which only "here" is a session.
type shelf struct {
	*Store
	t     *testing.T
	later time.Duration
}

func open(t *testing.T, d *db.DB) *shelf {
	t.Helper()
	bucket, err := blobstore.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bucket.Close() })
	store, err := New(t.Context(), Config{DB: d, Blobs: bucket, SessionExists: func(_ context.Context, id string) (bool, error) { return id == "here", nil }})
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{Store: store, t: t}
	store.now = func() time.Time { return time.Now().Add(s.later) }
	return s
}

func (s *shelf) receive(content string) *Upload {
	s.t.Helper()
	u, err := s.Receive(s.t.Context(), "a.txt", "text/plain", strings.NewReader(content))
	if err != nil {
		s.t.Fatal(err)
	}
	u.WorkspaceID = "w"
	return u
}

func (s *shelf) keep(content, session string, life time.Duration) api.File {
	s.t.Helper()
	u := s.receive(content)
	u.SessionID = session
	f, err := u.Keep(s.t.Context(), life)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// bodies are the ids of what is in the blob store.
func (s *shelf) stored() (ids []string) {
	s.t.Helper()
	for list := s.bodies.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(s.t.Context())
		if errors.Is(err, io.EOF) {
			return ids
		}
		if err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, strings.TrimPrefix(object.Key, prefix))
	}
}

func (s *shelf) sweep() {
	s.t.Helper()
	if err := s.Sweep(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		kept := s.keep("kept", "", 0)
		short := s.keep("short", "", minLife)
		mine, theirs := s.keep("mine", "here", 0), s.keep("theirs", "gone", 0)
		abandoned := s.receive("abandoned")
		s.sweep()
		got := s.stored()
		slices.Sort(got)
		want := []string{kept.ID, short.ID, mine.ID, abandoned.file.ID}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("after a sweep there are %q, want %q; %s was of a session that is gone", got, want, theirs.ID)
		}
		s.later = minLife + time.Second
		if _, err := s.Get(t.Context(), "w", short.ID); !is(err, http.StatusNotFound) {
			t.Errorf("an expired file: %v", err)
		}
		s.later = upload + time.Minute
		s.sweep()
		got, want = s.stored(), []string{kept.ID, mine.ID}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("a day later there are %q, want %q", got, want)
		}
		_, body, err := s.Open(t.Context(), "w", kept.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if raw, err := io.ReadAll(body); err != nil || !bytes.Equal(raw, []byte("kept")) {
			t.Errorf("the file holds %q, %v", raw, err)
		}
	})
}

func TestNothingIsLeftOfWhatFails(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		broken := errors.New("broken")
		if _, err := s.Receive(t.Context(), "a", "", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("a body that breaks off: %v", err)
		}
		if _, err := s.Receive(t.Context(), "a", "", io.LimitReader(zeros{}, MaxSize+1)); !is(err, http.StatusRequestEntityTooLarge) {
			t.Errorf("a body that is too large: %v", err)
		}
		for _, life := range []time.Duration{minLife - time.Second, maxLife + time.Second, -time.Hour} {
			if _, err := s.receive("x").Keep(t.Context(), life); !is(err, http.StatusBadRequest) {
				t.Errorf("to live %v: %v", life, err)
			}
		}
		s.receive("x").Drop(t.Context())
		if got := s.stored(); len(got) > 0 {
			t.Errorf("left are %q", got)
		}
	})
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func is(err error, status int) bool {
	var wire *api.Error
	return errors.As(err, &wire) && wire.Status == status
}
