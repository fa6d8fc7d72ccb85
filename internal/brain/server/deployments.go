package server

import (
	"context"

	"hearth/api"
	"hearth/internal/brain/deployment"
)

func (s *server) deploymentRoutes() []route {
	const (
		deployments   = "/v1/deployments"
		oneDeployment = deployments + "/{deployment_id}"
		runs          = "/v1/deployment_runs"
	)
	return []route{
		{"POST", deployments, developer, s.createDeployment},
		{"GET", deployments, viewer, s.listDeployments},
		{"GET", oneDeployment, viewer, s.onDeployment((*deployment.Store).Get)},
		{"POST", oneDeployment, developer, s.updateDeployment},
		{"POST", oneDeployment + "/archive", developer, s.onDeployment((*deployment.Store).Archive)},
		{"POST", oneDeployment + "/pause", developer, s.onDeployment((*deployment.Store).Pause)},
		{"POST", oneDeployment + "/unpause", developer, s.onDeployment((*deployment.Store).Unpause)},
		{"POST", oneDeployment + "/run", developer, s.runDeployment},
		{"GET", runs, viewer, s.listRuns},
		{"GET", runs + "/{deployment_run_id}", viewer, s.getRun},
	}
}

func (s *server) createDeployment(r *request) (any, error) {
	var p deployment.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Deployments.Create(r.Context(), r.principal.WorkspaceID, p)
}

func (s *server) listDeployments(r *request) (any, error) {
	q := r.params()
	f := deployment.Filter{
		WorkspaceID: r.principal.WorkspaceID, AgentID: q.text("agent_id"), Status: q.choice("status", "", api.DeploymentActive, api.DeploymentPaused),
		IncludeArchived: q.flag("include_archived"), Earliest: q.moment("created_at[gte]"), Latest: q.moment("created_at[lte]"),
		After: q.cursor("deployments").ID, Limit: q.limit(),
	}
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Deployments.List(r.Context(), f)
	return page(list, more, func(d api.Deployment) cursor { return cursor{List: "deployments", ID: d.ID} }), err
}

// deploymentAction is a method of the store that takes a deployment by its id.
type deploymentAction func(s *deployment.Store, ctx context.Context, workspaceID, id string) (api.Deployment, error)

// onDeployment does something with the deployment in the path.
func (s *server) onDeployment(do deploymentAction) handler {
	return func(r *request) (any, error) {
		return do(s.Deployments, r.Context(), r.principal.WorkspaceID, r.PathValue("deployment_id"))
	}
}

func (s *server) updateDeployment(r *request) (any, error) {
	var p deployment.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Deployments.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("deployment_id"), p)
}

func (s *server) runDeployment(r *request) (any, error) {
	return s.Deployments.RunNow(r.Context(), r.principal.WorkspaceID, r.PathValue("deployment_id"))
}

func (s *server) listRuns(r *request) (any, error) {
	q := r.params()
	f := deployment.RunFilter{
		WorkspaceID: r.principal.WorkspaceID, DeploymentID: q.text("deployment_id"), Trigger: q.choice("trigger_type", "", api.TriggerSchedule, api.TriggerManual),
		After: q.cursor("deployment runs").ID, Limit: q.limitTo(1000),
	}
	after, before := q.span("created_at")
	f.CreatedAfter, f.CreatedBefore = deployment.Bound(after), deployment.Bound(before)
	if q.text("has_error") != "" {
		failed := q.flag("has_error")
		f.HasError = &failed
	}
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Deployments.ListRuns(r.Context(), f)
	return page(list, more, func(d api.DeploymentRun) cursor { return cursor{List: "deployment runs", ID: d.ID} }), err
}

func (s *server) getRun(r *request) (any, error) {
	return s.Deployments.GetRun(r.Context(), r.principal.WorkspaceID, r.PathValue("deployment_run_id"))
}
