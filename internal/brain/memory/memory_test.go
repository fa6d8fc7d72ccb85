package memory

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

const workspace = "w"

var agent = api.NewMemoryActor(api.ActorSession, "sesn_1")

// shelf is a store whose clock can be set.
type shelf struct {
	*Store
	t     *testing.T
	later time.Duration
	id    string
}

func each(t *testing.T, test func(t *testing.T, s *shelf)) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := &shelf{t: t}
		store, err := New(t.Context(), Config{DB: d, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(s.later) }})
		if err != nil {
			t.Fatal(err)
		}
		s.Store = store
		made, err := store.Create(t.Context(), workspace, Params{Name: api.Optional[string]{Set: true, Value: "n"}})
		if err != nil {
			t.Fatal(err)
		}
		s.id = made.ID
		test(t, s)
	})
}

func (s *shelf) add(path, content string) api.Memory {
	s.t.Helper()
	m, err := s.Add(s.t.Context(), workspace, s.id, agent, Write{Path: &path, Content: &content})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *shelf) set(m api.Memory, content string) {
	s.t.Helper()
	if _, err := s.Set(s.t.Context(), workspace, s.id, m.ID, agent, Write{Content: &content}); err != nil {
		s.t.Fatal(err)
	}
}

// history is what the versions of a memory hold, latest first.
func (s *shelf) history(m api.Memory) (contents []string) {
	s.t.Helper()
	versions, _, err := s.Versions(s.t.Context(), VersionFilter{WorkspaceID: workspace, StoreID: s.id, MemoryID: m.ID, Contents: true, Limit: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, v := range versions {
		if v.Content == nil {
			contents = append(contents, v.Operation)
			continue
		}
		contents = append(contents, *v.Content)
	}
	return contents
}

func TestOldVersionsGo(t *testing.T) {
	each(t, func(t *testing.T, s *shelf) {
		often, once, gone := s.add("/often", "0"), s.add("/once", "x"), s.add("/gone", "x")
		for n := range 14 {
			s.set(often, fmt.Sprint(n+1))
		}
		s.later = retention - time.Minute
		if err := s.Remove(t.Context(), workspace, s.id, gone.ID, agent, ""); err != nil {
			t.Fatal(err)
		}
		sweep := func(later time.Duration, wantOften int, wantGone ...string) {
			t.Helper()
			s.later = later
			if err := s.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.history(often); len(got) != wantOften || got[0] != "14" {
				t.Errorf("after %v the memory's history is %q, want %d of them", later, got, wantOften)
			}
			if got := s.history(once); !slices.Equal(got, []string{"x"}) {
				t.Errorf("after %v the other's is %q", later, got)
			}
			if got := s.history(gone); !slices.Equal(got, wantGone) {
				t.Errorf("after %v that of the deleted one is %q, want %q", later, got, wantGone)
			}
		}
		sweep(retention-time.Minute, 15, "deleted", "x")
		sweep(retention+time.Minute, recent, "deleted", "x")
		sweep(2*retention+time.Minute, recent)
		if m, err := s.Memory(t.Context(), workspace, s.id, often.ID); err != nil || *m.Content != "14" {
			t.Errorf("the memory holds %+v, %v", m, err)
		}
	})
}

func TestAStoreIsFull(t *testing.T) {
	each(t, func(t *testing.T, s *shelf) {
		first := s.add("/first", "x")
		// All but the last at once, for each by itself takes a minute.
		err := s.db.Write(t.Context(), func(tx db.Tx) error {
			for n := range api.MaxMemories - 2 {
				_, err := tx.Exec(t.Context(), "INSERT INTO memories (id, store_id, path, sha256, size, version_id, created_at, updated_at) VALUES (?, ?, ?, '', 1, ?, 0, 0)",
					fmt.Sprint("mem_", n), s.id, fmt.Appendf(nil, "/%d", n), first.MemoryVersionID)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.add("/last", "x")
		path, content := "/more", "x"
		_, err = s.Add(t.Context(), workspace, s.id, agent, Write{Path: &path, Content: &content})
		if wire, ok := err.(*api.Error); !ok || wire.Status != http.StatusBadRequest {
			t.Errorf("one more: %v", err)
		}
	})
}

// TestRaces: of writers that want the same, one gets it.
func TestRaces(t *testing.T) {
	each(t, func(t *testing.T, s *shelf) {
		m := s.add("/m", "0")
		var mu sync.Mutex
		won := map[string]int{}
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				content, path := fmt.Sprint("by ", n), []string{"/a", "/a/b", "/a/b/c"}[n%3]
				_, added := s.Add(t.Context(), workspace, s.id, agent, Write{Path: &path, Content: &content})
				_, set := s.Set(t.Context(), workspace, s.id, m.ID, agent, Write{Content: &content, Precondition: &Precondition{Type: "content_sha256", ContentSHA256: m.ContentSHA256}})
				mu.Lock()
				defer mu.Unlock()
				for what, err := range map[string]error{"add": added, "set": set} {
					switch wire, ok := err.(*api.Error); {
					case err == nil:
						won[what]++
					case !ok || wire.Status != http.StatusConflict:
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
		all.Wait()
		if won["add"] != 1 || won["set"] != 1 {
			t.Errorf("won: %v", won)
		}
	})
}
