package api

import (
	"errors"
	"slices"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestSessions(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, g, sessions := t.Context(), s.ground(), s.SDK.Beta.Sessions
		cents := func(amount string) anthropic.BetaManagedAgentsBudgetLimitParam {
			return anthropic.BetaManagedAgentsBudgetLimitParam{Type: anthropic.BetaManagedAgentsBudgetLimitTypeLimit, MaxListCost: anthropic.BetaMonetaryAmountParam{Amount: amount, Currency: anthropic.BetaCurrencyUSD}}
		}
		made, err := sessions.New(ctx, anthropic.BetaSessionNewParams{
			Agent: anthropic.BetaSessionNewParamsAgentUnion{OfBetaManagedAgentsAgentWithOverridess: &anthropic.BetaManagedAgentsAgentWithOverridesParams{
				ID: g.agentID, Type: anthropic.BetaManagedAgentsAgentWithOverridesParamsTypeAgentWithOverrides, System: anthropic.String("Be brief."),
			}},
			EnvironmentID: g.environmentID, Title: anthropic.String("a look around"), Metadata: map[string]string{"team": "risk"}, Budget: cents("500"),
		})
		must(t, err)
		if made.Agent.System != "Be brief." || made.Agent.ID != g.agentID || made.Budget.MaxListCost.Amount != "500" || made.Usage.ListCost.Amount != "0" || made.Status != "idle" {
			t.Errorf("made %s", made.RawJSON())
		}
		changed, err := sessions.Update(ctx, made.ID, anthropic.BetaSessionUpdateParams{
			Title: anthropic.String("a second look"), Metadata: map[string]string{"floor": "3"}, Budget: cents("600"),
			Agent: anthropic.BetaManagedAgentsSessionAgentUpdateParam{Tools: []anthropic.BetaManagedAgentsSessionAgentUpdateToolUnionParam{}},
		})
		must(t, err)
		if changed.Title != "a second look" || changed.Metadata["team"] != "risk" || changed.Budget.MaxListCost.Amount != "600" || len(changed.Agent.Tools) != 0 {
			t.Errorf("changed %s", changed.RawJSON())
		}
		found, err := sessions.Get(ctx, made.ID, anthropic.BetaSessionGetParams{})
		must(t, err)
		if found.Title != changed.Title || found.Stats.DurationSeconds <= 0 {
			t.Errorf("found %s", found.RawJSON())
		}
		second := s.session(g, "")
		third := s.session(g, "")
		var listed []string
		all := sessions.ListAutoPaging(ctx, anthropic.BetaSessionListParams{Limit: anthropic.Int(1), Statuses: []string{"idle", "running"}, AgentID: anthropic.String(g.agentID)})
		for all.Next() {
			listed = append(listed, all.Current().ID)
		}
		if want := []string{third.ID, second.ID, made.ID}; all.Err() != nil || !slices.Equal(listed, want) {
			t.Errorf("listed %v, want %v: %v", listed, want, all.Err())
		}
		page, err := sessions.List(ctx, anthropic.BetaSessionListParams{Limit: anthropic.Int(2), Order: anthropic.BetaSessionListParamsOrderAsc})
		must(t, err)
		next, err := page.GetNextPage()
		if err != nil || len(next.Data) != 1 || next.Data[0].ID != third.ID || next.PrevPage == "" {
			t.Errorf("the second page: %v", err)
		}
		if archived, err := sessions.Archive(ctx, second.ID, anthropic.BetaSessionArchiveParams{}); err != nil || archived.Status != "terminated" || archived.ArchivedAt.IsZero() {
			t.Errorf("archived: %v", err)
		}
		if gone, err := sessions.Delete(ctx, third.ID, anthropic.BetaSessionDeleteParams{}); err != nil || gone.ID != third.ID {
			t.Errorf("deleted: %v", err)
		}
		var failed *anthropic.Error
		if _, err := sessions.Get(ctx, third.ID, anthropic.BetaSessionGetParams{}); !errors.As(err, &failed) || failed.StatusCode != 404 {
			t.Errorf("after its deletion: %v", err)
		}
		s.typeScript("sessions.mjs", s.ground().env()...)
	})
}
