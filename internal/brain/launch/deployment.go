package launch

import (
	"context"

	"hearth/api"
	"hearth/internal/brain/deployment"
)

func deployed(s deployment.Session) Params {
	p := Params{
		SessionID: s.ID, DeploymentID: s.DeploymentID, Agent: s.Agent, EnvironmentID: s.EnvironmentID,
		InitialEvents: s.InitialEvents, Resources: s.Resources, VaultIDs: s.VaultIDs,
	}
	if s.Title != "" {
		p.Title = &s.Title
	}
	p.Budget.Set, p.Budget.Null, p.Budget.Value = true, s.Budget == nil, s.Budget
	return p
}

// CheckDeployed implements deployment.Sessions.
func (l Launcher) CheckDeployed(ctx context.Context, workspaceID string, s deployment.Session) (api.AgentReference, error) {
	create, err := l.prepare(ctx, workspaceID, deployed(s))
	if err == nil {
		err = l.Sessions.Check(ctx, create)
	}
	return api.AgentReference{ID: create.Agent.ID, Type: "agent", Version: create.Agent.Version}, err
}

// StartDeployed implements deployment.Sessions.
func (l Launcher) StartDeployed(ctx context.Context, workspaceID string, s deployment.Session) error {
	_, err := l.Start(ctx, workspaceID, deployed(s))
	return err
}
