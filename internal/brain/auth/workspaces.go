package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/db"
)

// DefaultWorkspace is there from the start and cannot be archived. Its admins
// are the operators of the server.
const DefaultWorkspace = "wrkspc_default"

// DefaultOrganization is the one organisation, whose workspaces these are.
const DefaultOrganization = "org_default"

// maxWorkspaceName is how many characters a workspace's name may have, as the
// hosted service has it.
const maxWorkspaceName = 40

const workspaceColumns = "id, name, created_at, archived_at"

func scanWorkspace(row interface{ Scan(...any) error }) (api.Workspace, error) {
	w := api.Workspace{Type: "workspace"}
	var created int64
	var archived sql.NullInt64
	err := row.Scan(&w.ID, &w.Name, &created, &archived)
	w.CreatedAt, w.ArchivedAt = time.UnixMicro(created).UTC(), stamp(archived)
	return w, err
}

func stamp(micros sql.NullInt64) *time.Time {
	if !micros.Valid {
		return nil
	}
	at := time.UnixMicro(micros.Int64).UTC()
	return &at
}

func (k *Keys) ensureDefault(ctx context.Context) error {
	err := k.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO workspaces (id, name, created_at) VALUES (?, 'default', ?) ON CONFLICT DO NOTHING", DefaultWorkspace, k.now().UnixMicro())
		return err
	})
	if err != nil {
		return fmt.Errorf("make the default workspace: %w", err)
	}
	return nil
}

func checkName(name string, most int) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > most {
		return api.Invalid("name", "must have 1 to %d characters", most)
	}
	return nil
}

// CreateWorkspace makes a workspace. No two that are not archived have the same
// name.
func (k *Keys) CreateWorkspace(ctx context.Context, name string) (api.Workspace, error) {
	w := api.Workspace{ID: api.NewID(api.PrefixWorkspace), Type: "workspace", Name: name, CreatedAt: k.now().UTC().Truncate(time.Microsecond)}
	if err := checkName(name, maxWorkspaceName); err != nil {
		return w, err
	}
	err := k.db.Write(ctx, func(tx db.Tx) error {
		if err := uniqueName(ctx, tx, w); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO workspaces (id, name, created_at) VALUES (?, ?, ?)", w.ID, w.Name, w.CreatedAt.UnixMicro())
		return err
	})
	return w, err
}

func uniqueName(ctx context.Context, tx db.Tx, w api.Workspace) error {
	var other string
	err := tx.QueryRow(ctx, "SELECT id FROM workspaces WHERE name = ? AND id <> ? AND archived_at IS NULL", w.Name, w.ID).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return api.Conflict("name: workspace %s is already called %.80q", other, w.Name)
}

// GetWorkspace returns a workspace.
func (k *Keys) GetWorkspace(ctx context.Context, id string) (w api.Workspace, err error) {
	err = k.db.Read(ctx, func(tx db.Tx) error {
		w, err = getWorkspace(ctx, tx, id, "")
		return err
	})
	return w, err
}

func getWorkspace(ctx context.Context, tx db.Tx, id, lock string) (api.Workspace, error) {
	if !api.IsName(id) { // it may come from a header, which may hold anything
		return api.Workspace{}, api.NotFound("workspace", id)
	}
	w, err := scanWorkspace(tx.QueryRow(ctx, "SELECT "+workspaceColumns+" FROM workspaces WHERE id = ?"+lock, id))
	if errors.Is(err, sql.ErrNoRows) {
		return w, api.NotFound("workspace", id)
	}
	if err != nil {
		return w, fmt.Errorf("read workspace %s: %w", id, err)
	}
	return w, nil
}

// ListWorkspaces returns a page of workspaces, newest first, and whether more
// follow. After is the id of the last one of the page before, "" for the first.
// Only is the one to list, "" for all.
func (k *Keys) ListWorkspaces(ctx context.Context, only, after string, limit int, archived bool) (list []api.Workspace, more bool, err error) {
	query, args := "SELECT "+workspaceColumns+" FROM workspaces WHERE 1 = 1", []any{}
	if only != "" {
		query, args = query+" AND id = ?", append(args, only)
	}
	if after != "" {
		query, args = query+" AND id < ?", append(args, after)
	}
	if !archived {
		query += " AND archived_at IS NULL"
	}
	list, err = collect(ctx, k.db, scanWorkspace, query+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...)
	if err != nil {
		return nil, false, fmt.Errorf("list workspaces: %w", err)
	}
	if len(list) > limit {
		return list[:limit], true, nil
	}
	return list, false, nil
}

// collect reads the rows of a query.
func collect[T any](ctx context.Context, d *db.DB, scan func(interface{ Scan(...any) error }) (T, error), query string, args ...any) (list []T, err error) {
	err = d.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		list = nil
		for rows.Next() {
			one, err := scan(rows)
			if err != nil {
				return err
			}
			list = append(list, one)
		}
		return rows.Err()
	})
	return list, err
}

// RenameWorkspace gives a workspace another name.
func (k *Keys) RenameWorkspace(ctx context.Context, id, name string) (api.Workspace, error) {
	if err := checkName(name, maxWorkspaceName); err != nil {
		return api.Workspace{}, err
	}
	return k.changeWorkspace(ctx, id, func(tx db.Tx, w *api.Workspace) error {
		if w.ArchivedAt != nil {
			return api.BadRequest("workspace %s is archived and cannot be changed", id)
		}
		w.Name = name
		return uniqueName(ctx, tx, *w)
	})
}

// ArchiveWorkspace closes a workspace for good: the next request with a
// credential of it, of whatever kind, is refused. Repeating it is harmless.
func (k *Keys) ArchiveWorkspace(ctx context.Context, id string) (api.Workspace, error) {
	if id == DefaultWorkspace {
		return api.Workspace{}, api.BadRequest("the default workspace cannot be archived: the server's own key is in it")
	}
	return k.changeWorkspace(ctx, id, func(_ db.Tx, w *api.Workspace) error {
		if w.ArchivedAt == nil {
			now := k.now().UTC().Truncate(time.Microsecond)
			w.ArchivedAt = &now
		}
		return nil
	})
}

func (k *Keys) changeWorkspace(ctx context.Context, id string, fn func(db.Tx, *api.Workspace) error) (w api.Workspace, err error) {
	err = k.db.Write(ctx, func(tx db.Tx) error {
		if w, err = getWorkspace(ctx, tx, id, tx.ForUpdate()); err != nil {
			return err
		}
		if err := fn(tx, &w); err != nil {
			return err
		}
		var archived sql.NullInt64
		if w.ArchivedAt != nil {
			archived = sql.NullInt64{Int64: w.ArchivedAt.UnixMicro(), Valid: true}
		}
		_, err := tx.Exec(ctx, "UPDATE workspaces SET name = ?, archived_at = ? WHERE id = ?", w.Name, archived, id)
		return err
	})
	return w, err
}

// CheckOpen answers 400 when a workspace has been archived, and nothing new may
// begin in it.
func (k *Keys) CheckOpen(ctx context.Context, workspaceID string) error {
	err := k.checkOpen(ctx, workspaceID)
	if errors.Is(err, errArchived) {
		return api.BadRequest("workspace %s is archived", workspaceID).WithCode("workspace_archived")
	}
	return err
}
