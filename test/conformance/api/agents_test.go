package api

import (
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestAgents(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		agents := s.SDK.Beta.Agents
		made, err := agents.New(t.Context(), anthropic.BetaAgentNewParams{
			Name: "reviewer", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"},
		})
		must(t, err)
		found, err := agents.Get(t.Context(), made.ID, anthropic.BetaAgentGetParams{})
		must(t, err)
		if found.Name != "reviewer" || found.Version != 1 {
			t.Errorf("found %s at version %d", found.Name, found.Version)
		}
		changed, err := agents.Update(t.Context(), made.ID, anthropic.BetaAgentUpdateParams{Version: anthropic.Int(made.Version), System: anthropic.String("Be brief.")})
		must(t, err)
		if changed.Version != 2 || changed.System != "Be brief." {
			t.Errorf("changed to version %d, %q", changed.Version, changed.System)
		}
		versions := agents.Versions.ListAutoPaging(t.Context(), made.ID, anthropic.BetaAgentVersionListParams{Limit: anthropic.Int(1)})
		for want := int64(2); want > 0; want-- {
			if !versions.Next() || versions.Current().Version != want {
				t.Fatalf("version %d, want %d: %v", versions.Current().Version, want, versions.Err())
			}
		}
		if _, err := agents.Archive(t.Context(), made.ID, anthropic.BetaAgentArchiveParams{}); err != nil {
			t.Fatal(err)
		}
		all := agents.ListAutoPaging(t.Context(), anthropic.BetaAgentListParams{IncludeArchived: anthropic.Bool(true)})
		if !all.Next() || all.Current().ID != made.ID || all.Current().ArchivedAt.IsZero() {
			t.Errorf("listed %+v: %v", all.Current(), all.Err())
		}
		s.typeScript("agents.mjs")
	})
}
