package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestMemories(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		stores := s.SDK.Beta.MemoryStores
		made, err := stores.New(t.Context(), anthropic.BetaMemoryStoreNewParams{Name: "Notes", Description: anthropic.String("what we know"), Metadata: map[string]string{"team": "risk"}})
		must(t, err)
		found, err := stores.Get(t.Context(), made.ID, anthropic.BetaMemoryStoreGetParams{})
		must(t, err)
		if found.Name != "Notes" || found.Metadata["team"] != "risk" || !found.ArchivedAt.IsZero() {
			t.Errorf("found %s", found.RawJSON())
		}
		changed, err := stores.Update(t.Context(), made.ID, anthropic.BetaMemoryStoreUpdateParams{Name: anthropic.String("Memory")})
		must(t, err)
		if changed.Name != "Memory" || changed.Description != "what we know" {
			t.Errorf("changed to %s", changed.RawJSON())
		}
		s.memories(made.ID)
		if _, err := stores.Archive(t.Context(), made.ID, anthropic.BetaMemoryStoreArchiveParams{}); err != nil {
			t.Fatal(err)
		}
		all := stores.ListAutoPaging(t.Context(), anthropic.BetaMemoryStoreListParams{IncludeArchived: anthropic.Bool(true), Limit: anthropic.Int(1)})
		if !all.Next() || all.Current().ID != made.ID || all.Current().ArchivedAt.IsZero() || all.Next() {
			t.Errorf("listed %+v: %v", all.Current(), all.Err())
		}
		gone, err := stores.Delete(t.Context(), made.ID, anthropic.BetaMemoryStoreDeleteParams{})
		must(t, err)
		if gone.ID != made.ID {
			t.Errorf("deleted %s", gone.RawJSON())
		}
		s.typeScript("memories.mjs")
	})
}

// memories calls every method for the memories of a store and their versions.
func (s *server) memories(store string) {
	t, memories := s.t, s.SDK.Beta.MemoryStores.Memories
	made, err := memories.New(t.Context(), store, anthropic.BetaMemoryStoreMemoryNewParams{Path: "/notes/a.md", Content: anthropic.String("one"), View: anthropic.BetaManagedAgentsMemoryViewFull})
	must(t, err)
	found, err := memories.Get(t.Context(), made.ID, anthropic.BetaMemoryStoreMemoryGetParams{MemoryStoreID: store})
	must(t, err)
	if found.Content != "one" || found.ContentSha256 != made.ContentSha256 || found.Path != "/notes/a.md" {
		t.Errorf("found %s", found.RawJSON())
	}
	update := anthropic.BetaMemoryStoreMemoryUpdateParams{MemoryStoreID: store, Content: anthropic.String("two"), Precondition: anthropic.BetaManagedAgentsPreconditionParam{
		Type: anthropic.BetaManagedAgentsPreconditionTypeContentSha256, ContentSha256: anthropic.String(made.ContentSha256)}}
	changed, err := memories.Update(t.Context(), made.ID, update)
	must(t, err)
	if changed.ContentSizeBytes != 3 || changed.MemoryVersionID == made.MemoryVersionID {
		t.Errorf("changed to %s", changed.RawJSON())
	}
	_, err = memories.Update(t.Context(), made.ID, update)
	s.wantConflict(err, `"memory_precondition_failed_error"`)
	_, err = memories.New(t.Context(), store, anthropic.BetaMemoryStoreMemoryNewParams{Path: "/notes", Content: anthropic.String("")})
	s.wantConflict(err, `"conflicting_memory_id":"`+made.ID+`"`)
	if _, err := memories.New(t.Context(), store, anthropic.BetaMemoryStoreMemoryNewParams{Path: "/b.md", Content: anthropic.String("")}); err != nil {
		t.Fatal(err)
	}
	var listed []string
	all := memories.ListAutoPaging(t.Context(), store, anthropic.BetaMemoryStoreMemoryListParams{Depth: anthropic.Int(1), Limit: anthropic.Int(1)})
	for all.Next() {
		listed = append(listed, all.Current().Type+" "+all.Current().Path)
	}
	if got := strings.Join(listed, ", "); all.Err() != nil || got != "memory /b.md, memory_prefix /notes/" {
		t.Errorf("listed %s: %v", got, all.Err())
	}
	_, err = memories.Delete(t.Context(), made.ID, anthropic.BetaMemoryStoreMemoryDeleteParams{MemoryStoreID: store, ExpectedContentSha256: anthropic.String(made.ContentSha256)})
	s.wantConflict(err, `"memory_precondition_failed_error"`)
	if _, err := memories.Delete(t.Context(), made.ID, anthropic.BetaMemoryStoreMemoryDeleteParams{MemoryStoreID: store, ExpectedContentSha256: anthropic.String(changed.ContentSha256)}); err != nil {
		t.Fatal(err)
	}

	versions := s.SDK.Beta.MemoryStores.MemoryVersions
	var history []string
	for v := versions.ListAutoPaging(t.Context(), store, anthropic.BetaMemoryStoreMemoryVersionListParams{MemoryID: anthropic.String(made.ID), View: anthropic.BetaManagedAgentsMemoryViewFull, Limit: anthropic.Int(2)}); v.Next(); {
		history = append(history, string(v.Current().Operation)+" "+v.Current().Content)
	}
	if got := strings.Join(history, ", "); got != "deleted , modified two, created one" {
		t.Errorf("the history is %s", got)
	}
	redacted, err := versions.Redact(t.Context(), made.MemoryVersionID, anthropic.BetaMemoryStoreMemoryVersionRedactParams{MemoryStoreID: store})
	must(t, err)
	first, err := versions.Get(t.Context(), made.MemoryVersionID, anthropic.BetaMemoryStoreMemoryVersionGetParams{MemoryStoreID: store})
	must(t, err)
	if first.Content != "" || first.JSON.Content.Valid() || first.RedactedAt.IsZero() || !first.RedactedAt.Equal(redacted.RedactedAt) || first.RedactedBy.Type != "api_actor" {
		t.Errorf("redacted, it is %s", first.RawJSON())
	}
}

func (s *server) wantConflict(err error, text string) {
	s.t.Helper()
	var wire *anthropic.Error
	if !errors.As(err, &wire) || wire.StatusCode != http.StatusConflict || !strings.Contains(wire.RawJSON(), text) {
		s.t.Errorf("%v, want a conflict with %s", err, text)
	}
}
