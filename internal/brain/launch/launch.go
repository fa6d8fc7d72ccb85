// Package launch starts sessions: it checks what a request to create one asks
// for against the agents, environments, vaults and files there are, and has the session
// made. What starts sessions without a request, a schedule, comes the same way.
// It owns no data; it may call agent, environment, resource,
// session, skill and vault.
package launch

import (
	"context"
	"encoding/json"

	"hearth/api"
	"hearth/internal/brain/agent"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/resource"
	"hearth/internal/brain/session"
	"hearth/internal/brain/skill"
	"hearth/internal/brain/vault"
)

// Launcher starts sessions.
type Launcher struct {
	Agents       *agent.Store
	Environments *environment.Store
	Sessions     *session.Store
	Resources    resource.Maker
	Skills       *skill.Store
	// CheckOpen refuses a workspace that has been archived; nil refuses none.
	CheckOpen func(ctx context.Context, workspaceID string) error
	Vaults    *vault.Store
}

// Params are the body of a request to create a session.
type Params struct {
	Agent         json.RawMessage               `json:"agent"`
	EnvironmentID string                        `json:"environment_id"`
	Title         *string                       `json:"title"`
	Metadata      map[string]string             `json:"metadata"`
	InitialEvents []json.RawMessage             `json:"initial_events"`
	Resources     []json.RawMessage             `json:"resources"`
	VaultIDs      []string                      `json:"vault_ids"`
	Budget        api.Optional[json.RawMessage] `json:"budget"`
	// Of a session that a deployment starts.
	SessionID    string `json:"-"`
	DeploymentID string `json:"-"`
}

// Start creates a session, or says which field is wrong and creates nothing.
func (l Launcher) Start(ctx context.Context, workspaceID string, p Params) (api.Session, error) {
	create, err := l.prepare(ctx, workspaceID, p)
	if err != nil {
		return api.Session{}, err
	}
	return l.Sessions.Create(ctx, create)
}

// prepare checks what is asked for, and finds what it refers to.
func (l Launcher) prepare(ctx context.Context, workspaceID string, p Params) (session.CreateParams, error) {
	switch {
	case len(p.Agent) == 0:
		return session.CreateParams{}, api.Invalid("agent", "is required")
	case p.EnvironmentID == "":
		return session.CreateParams{}, api.Invalid("environment_id", "is required")
	}
	if l.CheckOpen != nil {
		if err := l.CheckOpen(ctx, workspaceID); err != nil {
			return session.CreateParams{}, err
		}
	}
	where, err := l.Environments.Get(ctx, workspaceID, p.EnvironmentID)
	if err != nil {
		return session.CreateParams{}, err
	}
	if where.ArchivedAt != nil {
		return session.CreateParams{}, api.Invalid("environment_id", "environment %s is archived", where.ID).WithCode("environment_archived")
	}
	who, err := l.Agents.Resolve(ctx, workspaceID, p.Agent)
	if err != nil {
		return session.CreateParams{}, err
	}
	if who.Skills, err = l.Skills.Pin(ctx, workspaceID, "agent.skills", who.Skills); err != nil {
		return session.CreateParams{}, err
	}
	if err := l.Vaults.Check(ctx, workspaceID, p.VaultIDs); err != nil {
		return session.CreateParams{}, err
	}
	create := session.CreateParams{
		WorkspaceID: workspaceID, Agent: who, EnvironmentID: where.ID, EnvironmentType: where.Config.Type,
		Title: p.Title, Metadata: p.Metadata, InitialEvents: p.InitialEvents, ResourceTokens: map[string]string{},
		ID: p.SessionID, DeploymentID: p.DeploymentID,
		VaultIDs: p.VaultIDs,
	}
	if p.Budget.Given() {
		create.Budget = p.Budget.Value
	}
	resources, err := l.Resources.Make(ctx, workspaceID, p.Resources)
	if err != nil {
		return session.CreateParams{}, err
	}
	for _, made := range resources {
		create.Resources = append(create.Resources, made.JSON)
		if made.MemoryStoreID != "" {
			create.MemoryStoreIDs = append(create.MemoryStoreIDs, made.MemoryStoreID)
		}
		if made.SealedToken != "" {
			create.ResourceTokens[made.ID] = made.SealedToken
		}
	}
	return create, nil
}
