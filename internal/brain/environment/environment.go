// Package environment keeps environments, where sessions act, and the keys by
// which workers serve them. It owns the tables environments and
// environment_keys and may call outbox, db and secret.
package environment

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/brain/outbox"
	"hearth/internal/db"
)

// Store is every environment.
type Store struct {
	db  *db.DB
	now func() time.Time
	outbox.Sender
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, d *db.DB) (*Store, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := d.Migrate(ctx, "environment", dir); err != nil {
		return nil, err
	}
	return &Store{db: d, now: time.Now}, nil
}

// Params are the fields of a request to create or update an environment.
type Params struct {
	Name        api.Optional[string]             `json:"name"`
	Description api.Optional[string]             `json:"description"`
	Config      api.Optional[ConfigParams]       `json:"config"`
	Metadata    api.Optional[map[string]*string] `json:"metadata"`
	Scope       api.Optional[string]             `json:"scope"`
}

// ConfigParams are an environment's configuration as requests give it.
type ConfigParams struct {
	Type       string                      `json:"type"`
	Networking api.Optional[network]       `json:"networking"`
	Packages   api.Optional[packageParams] `json:"packages"`
}

type network struct {
	Type                 string   `json:"type"` // "unrestricted" or "limited"
	AllowMCPServers      *bool    `json:"allow_mcp_servers,omitempty"`
	AllowPackageManagers *bool    `json:"allow_package_managers,omitempty"`
	AllowedHosts         []string `json:"allowed_hosts,omitzero"`
}

type packageParams struct {
	Apt   []string `json:"apt"`
	Cargo []string `json:"cargo"`
	Gem   []string `json:"gem"`
	Go    []string `json:"go"`
	NPM   []string `json:"npm"`
	Pip   []string `json:"pip"`
	Type  string   `json:"type"`
}

const (
	maxListed      = 1000 // hosts, or packages of one kind
	maxListedText  = 1024
	maxName        = 256
	maxDescription = 2048
)

// apply changes an environment as the params ask.
func (p Params) apply(e *api.Environment) error {
	if p.Name.Given() {
		if n := utf8.RuneCountInString(p.Name.Value); n == 0 || n > maxName {
			return api.Invalid("name", "must have 1 to %d characters", maxName)
		}
		e.Name = p.Name.Value
	}
	if p.Description.Set {
		if n := utf8.RuneCountInString(p.Description.Value); n > maxDescription {
			return api.Invalid("description", "has %d characters, at most %d are allowed", n, maxDescription)
		}
		e.Description = p.Description.Pointer()
	}
	if p.Scope.Given() {
		if p.Scope.Value != "organization" && p.Scope.Value != "account" {
			return api.Invalid("scope", "must be organization or account")
		}
		e.Scope = p.Scope.Value
	}
	if p.Config.Given() {
		config, err := p.Config.Value.config()
		if err != nil {
			return err
		}
		if e.Config.Type != "" && config.Type != e.Config.Type {
			return api.Invalid("config.type", "is %s and cannot be changed", e.Config.Type).WithCode("invalid_config_type_change")
		}
		e.Config = config
	}
	if p.Metadata.Given() {
		return api.MergeMetadata(e.Metadata, p.Metadata.Value)
	}
	return nil
}

// config is the configuration as answers give it: defaults filled in.
func (p ConfigParams) config() (api.EnvironmentConfig, error) {
	if p.Type == api.EnvironmentSelfHosted {
		return api.EnvironmentConfig{Type: p.Type}, nil
	}
	if p.Type != api.EnvironmentCloud {
		return api.EnvironmentConfig{}, api.Invalid("config.type", "must be %s or %s", api.EnvironmentSelfHosted, api.EnvironmentCloud)
	}
	n := network{Type: "unrestricted"}
	if p.Networking.Given() {
		n = p.Networking.Value
	}
	switch n.Type {
	case "unrestricted":
		n = network{Type: n.Type}
	case "limited":
		no := false
		for _, flag := range []**bool{&n.AllowMCPServers, &n.AllowPackageManagers} {
			if *flag == nil {
				*flag = &no
			}
		}
		if err := checkList("config.networking.allowed_hosts", n.AllowedHosts); err != nil {
			return api.EnvironmentConfig{}, err
		}
		n.AllowedHosts = append([]string{}, n.AllowedHosts...)
	default:
		return api.EnvironmentConfig{}, api.Invalid("config.networking.type", "must be unrestricted or limited")
	}
	packages := p.Packages.Value
	if packages.Type != "" && packages.Type != "packages" {
		return api.EnvironmentConfig{}, api.Invalid("config.packages.type", "must be packages")
	}
	packages.Type = "packages"
	for name, list := range map[string]*[]string{
		"apt": &packages.Apt, "cargo": &packages.Cargo, "gem": &packages.Gem, "go": &packages.Go, "npm": &packages.NPM, "pip": &packages.Pip,
	} {
		if err := checkList("config.packages."+name, *list); err != nil {
			return api.EnvironmentConfig{}, err
		}
		*list = append([]string{}, *list...)
	}
	networking, err := json.Marshal(n)
	if err != nil {
		return api.EnvironmentConfig{}, err
	}
	listed, err := json.Marshal(packages)
	return api.EnvironmentConfig{Type: p.Type, Networking: networking, Packages: listed}, err
}

// checkList checks a list of names in the field given.
func checkList(field string, names []string) error {
	if n := len(names); n > maxListed {
		return api.Invalid(field, "holds %d entries, at most %d are allowed", n, maxListed)
	}
	for i, name := range names {
		if n := utf8.RuneCountInString(name); n == 0 || n > maxListedText {
			return api.Invalid(fmt.Sprintf("%s[%d]", field, i), "has %d characters, want 1 to %d", n, maxListedText)
		}
	}
	return nil
}

// Create makes an environment. Without a config it is a cloud one, as it is at
// the hosted service.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (api.Environment, error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	e := api.Environment{
		ID: api.NewID(api.PrefixEnvironment), Type: "environment", Metadata: map[string]string{},
		Scope: "organization", CreatedAt: now, UpdatedAt: now,
	}
	if !p.Name.Given() {
		return e, api.Invalid("name", "is required")
	}
	if !p.Config.Given() {
		p.Config = api.Optional[ConfigParams]{Set: true, Value: ConfigParams{Type: api.EnvironmentCloud}}
	}
	if err := p.apply(&e); err != nil {
		return e, err
	}
	err := s.db.Write(ctx, func(tx db.Tx) error {
		if err := unique(ctx, tx, workspaceID, e); err != nil {
			return err
		}
		raw, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO environments (id, workspace_id, name, type, json) VALUES (?, ?, ?, ?, ?)", e.ID, workspaceID, e.Name, e.Config.Type, string(raw))
		if err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("environment.created", e.ID))
	})
	return e, err
}

func unique(ctx context.Context, tx db.Tx, workspaceID string, e api.Environment) error {
	var other string
	err := tx.QueryRow(ctx, "SELECT id FROM environments WHERE workspace_id = ? AND name = ? AND id <> ?", workspaceID, e.Name, e.ID).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return api.Conflict("name: environment %s is already called %.80q", other, e.Name)
}

// Get returns an environment.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (e api.Environment, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		e, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return e, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (api.Environment, error) {
	var raw string
	err := tx.QueryRow(ctx, "SELECT json FROM environments WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Environment{}, api.NotFound("environment", id).WithCode("environment_not_found")
	}
	if err != nil {
		return api.Environment{}, fmt.Errorf("read environment %s: %w", id, err)
	}
	var e api.Environment
	return e, json.Unmarshal([]byte(raw), &e)
}

// List returns a page of environments, newest first, and whether more follow.
// After is the id of the last one of the page before, "" for the first.
func (s *Store) List(ctx context.Context, workspaceID, after string, limit int, archived bool) (list []api.Environment, more bool, err error) {
	query, args := "SELECT json FROM environments WHERE workspace_id = ?", []any{workspaceID}
	if after != "" {
		query, args = query+" AND id < ?", append(args, after)
	}
	if !archived {
		query += " AND archived_at IS NULL"
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		list, err = db.Objects[api.Environment](tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...))
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list environments: %w", err)
	}
	if len(list) > limit {
		return list[:limit], true, nil
	}
	return list, false, nil
}

// WorkspaceOf returns the workspace of an environment. It answers 401 for one
// that is gone, as is whatever served it.
func (s *Store) WorkspaceOf(ctx context.Context, id string) (workspaceID string, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT workspace_id FROM environments WHERE id = ?", id).Scan(&workspaceID)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.Unauthenticated("the environment of this credential no longer exists")
	}
	if err != nil {
		return "", fmt.Errorf("read the workspace of environment %s: %w", id, err)
	}
	return workspaceID, nil
}

// Cloud is every cloud environment that is not archived, by its id, with its
// workspace.
func (s *Store) Cloud(ctx context.Context) (workspaces map[string]string, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id, workspace_id FROM environments WHERE type = ? AND archived_at IS NULL", api.EnvironmentCloud)
		if err != nil {
			return err
		}
		defer rows.Close()
		workspaces = map[string]string{}
		for rows.Next() {
			var id, workspaceID string
			if err := rows.Scan(&id, &workspaceID); err != nil {
				return err
			}
			workspaces[id] = workspaceID
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list cloud environments: %w", err)
	}
	return workspaces, nil
}

// Update changes an environment. Absent fields stay; its type never changes.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p Params) (api.Environment, error) {
	return s.change(ctx, workspaceID, id, "environment.updated", func(tx db.Tx, e *api.Environment) error {
		if e.ArchivedAt != nil {
			return api.BadRequest("environment %s is archived and cannot be changed", id).WithCode("environment_archived")
		}
		if err := p.apply(e); err != nil {
			return err
		}
		return unique(ctx, tx, workspaceID, *e)
	})
}

// Archive closes an environment to new sessions, for good. Those it has go on.
// Repeating it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Environment, error) {
	return s.change(ctx, workspaceID, id, "environment.archived", func(_ db.Tx, e *api.Environment) error {
		if e.ArchivedAt == nil {
			now := s.now().UTC().Truncate(time.Microsecond)
			e.ArchivedAt = &now
		}
		return nil
	})
}

// change has fn change an environment, and tells what happened if it did.
func (s *Store) change(ctx context.Context, workspaceID, id, happened string, fn func(db.Tx, *api.Environment) error) (api.Environment, error) {
	var e api.Environment
	err := s.db.Write(ctx, func(tx db.Tx) (err error) {
		if e, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		before, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := fn(tx, &e); err != nil {
			return err
		}
		after, err := json.Marshal(e)
		if err != nil || bytes.Equal(before, after) {
			return err
		}
		e.UpdatedAt = s.now().UTC().Truncate(time.Microsecond)
		raw, err := json.Marshal(e)
		if err != nil {
			return err
		}
		var archived sql.NullInt64
		if e.ArchivedAt != nil {
			archived = sql.NullInt64{Int64: e.ArchivedAt.UnixMicro(), Valid: true}
		}
		_, err = tx.Exec(ctx, "UPDATE environments SET name = ?, archived_at = ?, json = ? WHERE id = ?", e.Name, archived, string(raw), id)
		if err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened(happened, id))
	})
	return e, err
}

// Delete removes an environment and its keys. Whether it may go, for it has no
// sessions left, is the caller's to know.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	return s.db.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		for _, query := range []string{"DELETE FROM environment_keys WHERE environment_id = ?", "DELETE FROM environments WHERE id = ?"} {
			if _, err := tx.Exec(ctx, query, id); err != nil {
				return fmt.Errorf("delete environment %s: %w", id, err)
			}
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("environment.deleted", id))
	})
}
