package api

import (
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestEnvironments(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		environments := s.SDK.Beta.Environments
		made, err := environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
			Name: "office", Metadata: map[string]string{"floor": "3", "team": "risk"},
			Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
		})
		must(t, err)
		changed, err := environments.Update(t.Context(), made.ID, anthropic.BetaEnvironmentUpdateParams{Description: anthropic.String("behind the wall"), Metadata: map[string]string{"floor": "4"}})
		must(t, err)
		found, err := environments.Get(t.Context(), made.ID, anthropic.BetaEnvironmentGetParams{})
		must(t, err)
		if found.Config.Type != "self_hosted" || found.Description != "behind the wall" || found.Metadata["floor"] != "4" || found.Metadata["team"] != "risk" || found.UpdatedAt != changed.UpdatedAt {
			t.Errorf("found %s", found.RawJSON())
		}
		cloud, err := environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
			Name: "cloud", Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfCloud: &anthropic.BetaCloudConfigParams{}},
		})
		must(t, err)
		if archived, err := environments.Archive(t.Context(), cloud.ID, anthropic.BetaEnvironmentArchiveParams{}); err != nil || archived.ArchivedAt == "" {
			t.Errorf("archived: %v", err)
		}
		for archived, want := range map[bool][]string{false: {made.ID}, true: {cloud.ID, made.ID}} {
			list := environments.ListAutoPaging(t.Context(), anthropic.BetaEnvironmentListParams{Limit: anthropic.Int(1), IncludeArchived: anthropic.Bool(archived)})
			for _, id := range want {
				if !list.Next() || list.Current().ID != id {
					t.Errorf("listed %s, want %s: %v", list.Current().ID, id, list.Err())
				}
			}
			if list.Next() {
				t.Errorf("also listed %s", list.Current().ID)
			}
		}
		gone, err := environments.Delete(t.Context(), cloud.ID, anthropic.BetaEnvironmentDeleteParams{})
		must(t, err)
		if gone.ID != cloud.ID {
			t.Errorf("deleted %s", gone.RawJSON())
		}
		s.typeScript("environments.mjs")
	})
}
