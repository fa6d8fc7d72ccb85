package api

import (
	"errors"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestDreams(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, beta := t.Context(), s.SDK.Beta
		dreams := beta.Dreams
		var wire *anthropic.Error
		if _, err := dreams.Get(ctx, "drm_none", anthropic.BetaDreamGetParams{}); !errors.As(err, &wire) || wire.StatusCode != 404 {
			t.Errorf("a dream that is not there: %v", err)
		}
		store, err := beta.MemoryStores.New(ctx, anthropic.BetaMemoryStoreNewParams{Name: "notes"})
		must(t, err)
		agent, err := beta.Agents.New(ctx, anthropic.BetaAgentNewParams{Name: "dreamer", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"}})
		must(t, err)
		environment, err := beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{Name: "site"})
		must(t, err)
		session, err := beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
			Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)}, EnvironmentID: environment.ID,
		})
		must(t, err)
		made, err := dreams.New(ctx, anthropic.BetaDreamNewParams{
			Model: anthropic.BetaDreamNewParamsModelUnion{OfString: anthropic.String("claude-opus-4-5")},
			Inputs: []anthropic.BetaDreamInputUnionParam{
				anthropic.BetaDreamInputParamOfMemoryStore(store.ID), anthropic.BetaDreamInputParamOfSessions([]string{session.ID}),
			},
			OutputBehavior: anthropic.BetaOutputBehaviorParamOfUpdateExisting(store.ID),
		})
		must(t, err)
		if made.Status != anthropic.BetaDreamStatusPending || made.Model.ID != "claude-opus-4-5" || made.OutputBehavior.MemoryStoreID != store.ID {
			t.Errorf("made %s", made.RawJSON())
		}
		canceled, err := dreams.Cancel(ctx, made.ID, anthropic.BetaDreamCancelParams{})
		must(t, err)
		if canceled.Status != anthropic.BetaDreamStatusCanceled || canceled.EndedAt.IsZero() {
			t.Errorf("canceled: %s", canceled.RawJSON())
		}
		_, err = dreams.Archive(ctx, made.ID, anthropic.BetaDreamArchiveParams{})
		must(t, err)
		found, err := dreams.Get(ctx, made.ID, anthropic.BetaDreamGetParams{})
		must(t, err)
		all := dreams.ListAutoPaging(ctx, anthropic.BetaDreamListParams{
			IncludeArchived: anthropic.Bool(true), Statuses: []anthropic.BetaDreamStatus{anthropic.BetaDreamStatusCanceled}, Limit: anthropic.Int(1),
		})
		if !all.Next() || all.Current().ID != found.ID || found.ArchivedAt.IsZero() || all.Next() {
			t.Errorf("found %s, listed %s: %v", found.RawJSON(), all.Current().RawJSON(), all.Err())
		}
		s.typeScript("dreams.mjs", "HEARTH_STORE="+store.ID, "HEARTH_SESSION="+session.ID)
	})
}
