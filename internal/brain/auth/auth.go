// Package auth tells who makes a request: the holder of an API key, of an
// environment key or of a sessions token. It owns the table api_keys and may
// call environment and queue, which know the other two.
package auth

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/queue"
	"hearth/internal/db"
	"hearth/internal/secret"
)

// DefaultWorkspace is the workspace of everything, as long as there is but one.
const DefaultWorkspace = "wrkspc_default"

// DefaultOrganization is the one organisation, whose workspaces these are.
const DefaultOrganization = "org_default"

// Kind is a kind of credential.
type Kind string

// The kinds of credential.
const (
	KindAPIKey         Kind = "api_key"
	KindEnvironmentKey Kind = "environment_key"
	KindSessionsToken  Kind = "sessions_token"
)

// Role is what the holder of an API key may do.
type Role string

// The roles, each with all that those before it may do.
const (
	RoleViewer    Role = "viewer"    // reads
	RoleDeveloper Role = "developer" // makes and changes what agents work with
	RoleAdmin     Role = "admin"     // hands out credentials, too
)

// Principal is who makes a request.
type Principal struct {
	Kind        Kind
	Role        Role   // of an API key; "" for the others
	ID          string // of the key, or of the work item; fit for logs
	WorkspaceID string
	// EnvironmentID is the one environment an environment key or token is for.
	EnvironmentID string
	// Token is set for a sessions token.
	Token queue.Token
}

// Keys authenticates.
type Keys struct {
	db           *db.DB
	environments *environment.Store
	queue        *queue.Queue
}

//go:embed migrations/*.sql
var migrations embed.FS

// New migrates the tables and returns what authenticates.
func New(ctx context.Context, d *db.DB, environments *environment.Store, q *queue.Queue) (*Keys, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := d.Migrate(ctx, "auth", dir); err != nil {
		return nil, err
	}
	return &Keys{db: d, environments: environments, queue: q}, nil
}

// EnsureAPIKey makes key, which the operator chose, a valid API key.
func (k *Keys) EnsureAPIKey(ctx context.Context, name, key string) error {
	if len(key) < 16 {
		return errors.New("an API key must have at least 16 characters")
	}
	err := k.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO api_keys (id, workspace_id, hash, name, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET revoked_at = NULL",
			api.NewID(api.PrefixAPIKey), DefaultWorkspace, secret.Hash(key), name, time.Now().UnixMicro())
		return err
	})
	if err != nil {
		return fmt.Errorf("register the API key: %w", err)
	}
	return nil
}

// Authenticate finds the principal of a request by x-api-key or by
// Authorization: Bearer. Nothing is cached, so that a revocation takes effect
// on the next request.
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
	switch {
	case queue.IsToken(credential):
		return k.token(r.Context(), credential)
	case strings.HasPrefix(credential, secret.PrefixEnvironmentKey):
		environmentID, workspaceID, id, err := k.environments.Authenticate(r.Context(), credential)
		return Principal{Kind: KindEnvironmentKey, ID: id, WorkspaceID: workspaceID, EnvironmentID: environmentID}, err
	}
	return k.apiKey(r.Context(), credential)
}

func (k *Keys) token(ctx context.Context, credential string) (Principal, error) {
	t, err := k.queue.VerifyToken(ctx, credential)
	// An environment belongs to the workspace its session belongs to; the one
	// there is.
	return Principal{Kind: KindSessionsToken, ID: t.WorkID, WorkspaceID: DefaultWorkspace, EnvironmentID: t.EnvironmentID, Token: t}, err
}

func (k *Keys) apiKey(ctx context.Context, credential string) (Principal, error) {
	p := Principal{Kind: KindAPIKey, Role: RoleAdmin}
	var revoked sql.NullInt64
	err := k.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT id, workspace_id, revoked_at FROM api_keys WHERE hash = ?", secret.Hash(credential)).Scan(&p.ID, &p.WorkspaceID, &revoked)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && revoked.Valid:
		return Principal{}, api.Unauthenticated("the API key is not valid")
	case err != nil:
		return Principal{}, fmt.Errorf("authenticate: %w", err)
	}
	return p, nil
}
