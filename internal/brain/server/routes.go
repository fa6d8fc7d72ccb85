package server

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

// access is which kinds of credential a route takes.
type access int

const (
	public access = 0
	// viewer is an API key of any role, or a person with any, developer one of that
	// role or above it, and admin one of that role only. A route names the least
	// role it takes.
	viewer access = 1 << iota
	developer
	admin
	// operator is an admin of the default workspace.
	operator
	// worker is an environment key, for the environment in the path or that of
	// the session in the path.
	worker
	// item is a sessions token, for the work item and the session it names.
	item
)

// route is one row of the authorisation table.
type route struct {
	method, path string
	access       access
	handle       handler
}

// routes is the API: every route, and who may use it.
func (s *server) routes() []route {
	return slices.Concat(
		s.probes(),
		s.agentRoutes(),
		s.environmentRoutes(),
		s.keyRoutes(),
		s.workspaceRoutes(),
		s.workRoutes(),
		s.sessionRoutes(),
		s.resourceRoutes(),
		s.fileRoutes(),
		s.memoryRoutes(),
		s.skillRoutes(),
		s.modelRoutes(),
		s.webhookRoutes(),
		s.deploymentRoutes(),
		s.vaultRoutes(),
		s.tunnelRoutes(),
		s.profileRoutes(),
		s.dreamRoutes(),
	)
}

func (s *server) probes() []route {
	return []route{
		{"GET", "/healthz", public, s.healthz},
		{"GET", "/readyz", public, s.readyz},
		{"HEAD", "/healthz", public, s.healthz}, // as load balancers ask
		{"HEAD", "/readyz", public, s.readyz},
		{"GET", "/openapi.json", public, s.openAPI},
	}
}

// kinds says which access each kind of credential has.
var kinds = map[auth.Kind]access{
	auth.KindEnvironmentKey: worker,
	auth.KindSessionsToken:  item,
}

// roles says which access an API key or a person has, by their role.
var roles = map[auth.Role]access{
	auth.RoleViewer:    viewer,
	auth.RoleDeveloper: viewer | developer,
	auth.RoleAdmin:     viewer | developer | admin,
}

// authorise finds who makes the request and whether they may: by the kind of
// their credential, and by the objects the path names.
func (s *server) authorise(r *request, rt route) error {
	if rt.access == public {
		return nil
	}
	p, err := s.Keys.Authenticate(r.Request)
	r.principal = p // of one who is refused, too, for the log
	if err != nil {
		return err
	}
	r.w.Header().Set(auth.HeaderWorkspace, p.WorkspaceID)
	if err := s.limit(r); err != nil {
		return err
	}
	switch {
	case rt.access&accessOf(p) != 0:
	case p.IsClient() && rt.access&(viewer|developer|admin) != 0:
		return api.Forbidden("%s %s is not for the role %s", rt.method, rt.path, p.Role)
	case p.IsClient() && rt.access&operator != 0:
		return api.Forbidden("%s %s is for admins of the workspace %s only", rt.method, rt.path, auth.DefaultWorkspace)
	default:
		return api.Forbidden("%s %s does not take a credential of the kind %s", rt.method, rt.path, p.Kind)
	}
	if err := checkPath(r, rt.path); err != nil {
		return err
	}
	return s.inScope(r)
}

func accessOf(p auth.Principal) access {
	held := kinds[p.Kind] | roles[p.Role]
	if p.Operator {
		held |= operator
	}
	return held
}

var parameter = regexp.MustCompile(`\{([a-z_]+)\}`)

// checkPath refuses ids that no object could have.
func checkPath(r *request, path string) error {
	for _, name := range parameter.FindAllStringSubmatch(path, -1) {
		if err := checkText(name[1], r.PathValue(name[1])); err != nil {
			return err
		}
	}
	return nil
}

// inScope checks that the objects in the path are the principal's. To others,
// they do not exist.
func (s *server) inScope(r *request) error {
	p := r.principal
	if id := r.PathValue("workspace_id"); id != "" && id != p.WorkspaceID && !p.Operator {
		return api.NotFound("workspace", id)
	}
	if id := r.PathValue("environment_id"); id != "" {
		if err := s.seesEnvironment(r.Context(), p, id); err != nil {
			return err
		}
	}
	if id := r.PathValue("work_id"); id != "" && p.Kind == auth.KindSessionsToken && id != p.Token.WorkID {
		return api.NotFound("work item", id)
	}
	if id := r.PathValue("memory_store_id"); id != "" && p.Kind == auth.KindSessionsToken {
		return s.seesMemories(r, id)
	}
	id := r.PathValue("session_id")
	if id == "" {
		return nil
	}
	if p.Kind == auth.KindSessionsToken && id != p.Token.SessionID {
		return api.NotFound("session", id)
	}
	place, err := s.Sessions.PlaceOf(r.Context(), id)
	if err != nil {
		return err
	}
	if place.WorkspaceID != p.WorkspaceID || p.EnvironmentID != "" && place.EnvironmentID != p.EnvironmentID {
		return api.NotFound("session", id)
	}
	return nil
}

func (s *server) seesEnvironment(ctx context.Context, p auth.Principal, id string) error {
	if p.IsClient() {
		_, err := s.Environments.Get(ctx, p.WorkspaceID, id)
		return err
	}
	if id != p.EnvironmentID {
		return api.NotFound("environment", id).WithCode("environment_not_found")
	}
	return nil
}

func (s *server) healthz(*request) (any, error) { return map[string]string{"status": "ok"}, nil }

// readyz answers well when requests could be served: the database answers, and
// no shutdown has begun.
func (s *server) readyz(r *request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if s.Stopping.Err() != nil {
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Type: api.ErrOverloaded, Message: "the server is shutting down"}
	}
	if _, _, err := s.Environments.List(ctx, auth.DefaultWorkspace, "", 1, true); err != nil {
		s.Log.Error("not ready: the database does not answer", "error", err)
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Type: api.ErrOverloaded, Message: "the database does not answer"}
	}
	return map[string]string{"status": "ready"}, nil
}

func (s *server) openAPI(r *request) (any, error) {
	r.w.Header().Set("Content-Type", "application/json")
	r.w.WriteHeader(http.StatusOK)
	_, _ = r.w.Write(api.OpenAPI) // the client may be gone
	return written, nil
}
