// Package auth tells who makes a request: the holder of an API key, of an
// environment key or of a sessions token, or a person who has signed on at an
// OpenID provider. It keeps workspaces and their API keys, in the tables
// workspaces and api_keys, and may call environment and queue, which know the
// other credentials.
package auth

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/queue"
	"hearth/internal/db"
	"hearth/internal/secret"
)

// Kind is a kind of credential.
type Kind string

// The kinds of credential.
const (
	KindAPIKey         Kind = "api_key"
	KindPerson         Kind = "person" // a token of the OpenID provider
	KindEnvironmentKey Kind = "environment_key"
	KindSessionsToken  Kind = "sessions_token"
)

// Role is what the holder of an API key may do, or a person.
type Role string

// The roles, each with all that those before it may do.
const (
	RoleViewer    Role = "viewer"    // reads
	RoleDeveloper Role = "developer" // makes and changes what agents work with
	RoleAdmin     Role = "admin"     // hands out credentials, too
)

// ranks orders the roles.
var ranks = map[Role]int{RoleViewer: 1, RoleDeveloper: 2, RoleAdmin: 3}

// Principal is who makes a request.
type Principal struct {
	Kind        Kind
	Role        Role   // of an API key or a person; "" for the others
	ID          string // of the key, of the work item, or of the person at the issuer; fit for logs
	WorkspaceID string // the one the request is about
	// Operator is an admin of the default workspace. They make workspaces, and
	// may act in each of them.
	Operator bool
	// EnvironmentID is the one environment an environment key or token is for.
	EnvironmentID string
	// Token is set for a sessions token.
	Token queue.Token
}

// IsClient tells a client of the API from a worker, which serves one.
func (p Principal) IsClient() bool { return p.Kind == KindAPIKey || p.Kind == KindPerson }

// Config of Keys.
type Config struct {
	DB           *db.DB
	Environments *environment.Store
	Queue        *queue.Queue
	// SignOn is where people sign on; nil for nowhere.
	SignOn *SignOn
	Log    *slog.Logger // default slog.Default()
}

// Keys authenticates, and keeps workspaces and API keys.
type Keys struct {
	db           *db.DB
	environments *environment.Store
	queue        *queue.Queue
	signOn       *SignOn
	log          *slog.Logger
	now          func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// New migrates the tables and returns what authenticates.
func New(ctx context.Context, cfg Config) (*Keys, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "auth", dir); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	k := &Keys{db: cfg.DB, environments: cfg.Environments, queue: cfg.Queue, signOn: cfg.SignOn, log: cfg.Log, now: time.Now}
	return k, k.ensureDefault(ctx)
}

// HeaderWorkspace names the workspace that a request is about.
const HeaderWorkspace = "anthropic-workspace-id"

// Authenticate finds the principal of a request by x-api-key or by
// Authorization: Bearer. Nothing is cached, so that a revocation takes effect
// on the next request. Beside a refusal the principal holds what is known of
// who was refused, for the log.
func (k *Keys) Authenticate(r *http.Request) (Principal, error) {
	credential := r.Header.Get("x-api-key")
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if credential != "" && credential != bearer {
			return Principal{}, api.Unauthenticated("x-api-key and Authorization name different credentials; send one of them")
		}
		credential = strings.TrimSpace(bearer)
	}
	if credential == "" {
		return Principal{}, api.Unauthenticated("no credential: send an API key as x-api-key, or a key or token as Authorization: Bearer")
	}
	wanted := r.Header.Get(HeaderWorkspace)
	if k.signOn != nil && isJWT(credential) {
		return k.person(r.Context(), credential, wanted)
	}
	p, err := k.holder(r.Context(), credential)
	if err != nil {
		return p, err
	}
	return k.enter(r.Context(), p, wanted)
}

// holder finds who a key or a sessions token was given to.
func (k *Keys) holder(ctx context.Context, credential string) (Principal, error) {
	switch {
	case queue.IsToken(credential):
		return k.token(ctx, credential)
	case strings.HasPrefix(credential, secret.PrefixEnvironmentKey):
		environmentID, workspaceID, id, err := k.environments.Authenticate(ctx, credential)
		p := Principal{Kind: KindEnvironmentKey, ID: id, WorkspaceID: workspaceID, EnvironmentID: environmentID}
		if err != nil {
			return p, err
		}
		return p, k.checkOpen(ctx, workspaceID)
	}
	return k.apiKey(ctx, credential)
}

// token finds the holder of a sessions token. An environment belongs to the
// workspace that its sessions belong to.
func (k *Keys) token(ctx context.Context, credential string) (Principal, error) {
	t, err := k.queue.VerifyToken(ctx, credential)
	p := Principal{Kind: KindSessionsToken, ID: t.WorkID, EnvironmentID: t.EnvironmentID, Token: t}
	if err != nil {
		return p, err
	}
	if p.WorkspaceID, err = k.environments.WorkspaceOf(ctx, t.EnvironmentID); err != nil {
		return p, err
	}
	return p, k.checkOpen(ctx, p.WorkspaceID)
}

// enter takes the principal to the workspace that the request names. Only the
// operator may go to another one than the credential's own; for anybody else
// there is no other.
func (k *Keys) enter(ctx context.Context, p Principal, wanted string) (Principal, error) {
	if wanted == "" || wanted == p.WorkspaceID {
		return p, nil
	}
	if !p.Operator {
		return p, api.NotFound("workspace", wanted)
	}
	w, err := k.GetWorkspace(ctx, wanted)
	if err != nil {
		return p, err
	}
	p.WorkspaceID = w.ID
	return p, nil
}

// checkOpen refuses the credentials of a workspace that has been archived.
func (k *Keys) checkOpen(ctx context.Context, workspaceID string) error {
	if workspaceID == DefaultWorkspace {
		return nil // it cannot be archived
	}
	w, err := k.GetWorkspace(ctx, workspaceID)
	var wire *api.Error
	switch {
	case errors.As(err, &wire):
		return api.Unauthenticated("the workspace of this credential does not exist")
	case err != nil:
		return fmt.Errorf("authenticate: %w", err)
	case w.ArchivedAt != nil:
		return errArchived
	}
	return nil
}

var errArchived = api.Unauthenticated("the workspace of this credential is archived")
