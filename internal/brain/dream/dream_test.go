package dream

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/session"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// everything is a memory store and a session of each id.
type everything struct{}

func (everything) Resource(context.Context, string, string) (api.MemoryResource, error) {
	return api.MemoryResource{}, nil
}

func (everything) PlaceOf(context.Context, string) (session.Place, error) {
	return session.Place{WorkspaceID: "w"}, nil
}

// TestDreamsThatNobodyBegins fail after a while, and say so everywhere alike.
func TestDreamsThatNobodyBegins(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s, err := New(t.Context(), Config{DB: d, Memories: everything{}, Sessions: everything{}})
		must(t, err)
		now := time.Now()
		s.now = func() time.Time { return now }
		var p Params
		must(t, json.Unmarshal([]byte(`{"model":"m","inputs":[{"type":"memory_store","memory_store_id":"a"},{"type":"sessions","session_ids":["b"]}],
			"output_behavior":{"type":"update_existing","memory_store_id":"a"}}`), &p))
		made, err := s.Create(t.Context(), "w", p)
		must(t, err)
		refused := func(what string, err error) {
			t.Helper()
			var wire *api.Error
			if !errors.As(err, &wire) || wire.Status >= 500 {
				t.Errorf("%s: %v", what, err)
			}
		}
		listed := func(statuses ...string) int {
			t.Helper()
			list, _, err := s.List(t.Context(), Query{WorkspaceID: "w", Statuses: statuses, Limit: 10})
			must(t, err)
			return len(list)
		}
		now = now.Add(startWithin - time.Second)
		if got, err := s.Get(t.Context(), "w", made.ID); err != nil || got.Status != api.DreamPending || listed("pending") != 1 || listed("failed", "canceled") != 0 {
			t.Errorf("before its time is over it is %s, %v", got.Status, err)
		}
		_, err = s.Create(t.Context(), "w", p)
		refused("another that writes to the same store", err)

		now = now.Add(time.Second)
		got, err := s.Get(t.Context(), "w", made.ID)
		if err != nil || got.Status != api.DreamFailed || got.Error == nil || got.Error.Type != "not_supported" || !got.EndedAt.Equal(made.CreatedAt.Add(startWithin)) {
			t.Errorf("it is %+v, %v", got, err)
		}
		if listed("failed") != 1 || listed("failed", "pending") != 1 || listed("pending", "running") != 0 || listed() != 1 {
			t.Error("lists say something else")
		}
		_, err = s.Cancel(t.Context(), "w", made.ID)
		refused("canceled", err)
		archived, err := s.Archive(t.Context(), "w", made.ID)
		if err != nil || archived.Status != api.DreamFailed || archived.ArchivedAt == nil {
			t.Errorf("archived it is %+v, %v", archived, err)
		}
		if again, err := s.Get(t.Context(), "w", made.ID); err != nil || again.Status != api.DreamFailed || !again.EndedAt.Equal(*got.EndedAt) {
			t.Errorf("then it is %+v, %v", again, err)
		}
		_, err = s.Create(t.Context(), "w", p)
		must(t, err)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
