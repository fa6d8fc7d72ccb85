package api

import (
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestDeployments(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, deployments := t.Context(), s.SDK.Beta.Deployments
		agent, err := s.SDK.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{Name: "deployed", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"}})
		must(t, err)
		environment, err := s.SDK.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{Name: "deployed"})
		must(t, err)
		made, err := deployments.New(ctx, anthropic.BetaDeploymentNewParams{
			Name: "nightly", Agent: anthropic.BetaDeploymentNewParamsAgentUnion{OfString: anthropic.String(agent.ID)}, EnvironmentID: environment.ID,
			InitialEvents: []anthropic.BetaManagedAgentsDeploymentInitialEventParamsUnion{{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
				Type: anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
				Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{
					Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: "hello"}}},
			}}},
			Schedule: anthropic.BetaManagedAgentsScheduleParams{Type: anthropic.BetaManagedAgentsScheduleParamsTypeCron, Expression: "0 3 1 1 *", Timezone: "Europe/Paris"},
		})
		must(t, err)
		if made.Agent.Version != 1 || len(made.Schedule.UpcomingRunsAt) != 5 || made.Status != anthropic.BetaManagedAgentsDeploymentStatusActive {
			t.Errorf("made %s", made.RawJSON())
		}
		changed, err := deployments.Update(ctx, made.ID, anthropic.BetaDeploymentUpdateParams{Description: anthropic.String("by night")})
		must(t, err)
		found, err := deployments.Get(ctx, made.ID, anthropic.BetaDeploymentGetParams{})
		must(t, err)
		if changed.Description != "by night" || found.Description != "by night" {
			t.Errorf("changed %s, found %s", changed.RawJSON(), found.RawJSON())
		}
		paused, err := deployments.Pause(ctx, made.ID, anthropic.BetaDeploymentPauseParams{})
		must(t, err)
		if paused.PausedReason.Type != "manual" {
			t.Errorf("paused %s", paused.RawJSON())
		}
		started, err := deployments.Run(ctx, made.ID, anthropic.BetaDeploymentRunParams{})
		must(t, err)
		session, err := s.SDK.Beta.Sessions.Get(ctx, started.SessionID, anthropic.BetaSessionGetParams{})
		must(t, err)
		if session.DeploymentID != made.ID {
			t.Errorf("the session is of the deployment %q", session.DeploymentID)
		}
		_, err = deployments.Unpause(ctx, made.ID, anthropic.BetaDeploymentUnpauseParams{})
		must(t, err)
		runs := s.SDK.Beta.DeploymentRuns.ListAutoPaging(ctx, anthropic.BetaDeploymentRunListParams{DeploymentID: anthropic.String(made.ID), HasError: anthropic.Bool(false)})
		if !runs.Next() || runs.Current().ID != started.ID || runs.Next() || runs.Err() != nil {
			t.Errorf("listed otherwise: %v", runs.Err())
		}
		run, err := s.SDK.Beta.DeploymentRuns.Get(ctx, started.ID, anthropic.BetaDeploymentRunGetParams{})
		must(t, err)
		if _, manual := run.TriggerContext.AsAny().(anthropic.BetaManagedAgentsManualTriggerContext); !manual || run.SessionID != started.SessionID {
			t.Errorf("the run %s", run.RawJSON())
		}
		_, err = deployments.Archive(ctx, made.ID, anthropic.BetaDeploymentArchiveParams{})
		must(t, err)
		list := deployments.ListAutoPaging(ctx, anthropic.BetaDeploymentListParams{IncludeArchived: anthropic.Bool(true), AgentID: anthropic.String(agent.ID)})
		if !list.Next() || list.Current().ArchivedAt.IsZero() || list.Next() || list.Err() != nil {
			t.Errorf("listed otherwise: %v", list.Err())
		}
		s.typeScript("deployments.mjs", "HEARTH_ENVIRONMENT_ID="+environment.ID)
	})
}
