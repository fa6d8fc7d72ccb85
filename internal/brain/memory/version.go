package memory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// record adds a version to the history of a memory, whose store is locked.
func (s *Store) record(ctx context.Context, tx db.Tx, m *api.Memory, operation string, by api.MemoryActor) (id string, err error) {
	var seq int64
	if err := tx.QueryRow(ctx, "UPDATE memory_stores SET seq = seq + 1 WHERE id = ? RETURNING seq", m.MemoryStoreID).Scan(&seq); err != nil {
		return "", fmt.Errorf("number a version: %w", err)
	}
	var content, digest, size any
	at := m.UpdatedAt
	if operation == api.MemoryDeleted {
		at = s.clock()
	} else {
		content, digest, size = *m.Content, m.ContentSHA256, m.ContentSizeBytes
	}
	id = api.NewID(api.PrefixMemoryVer)
	_, err = tx.Exec(ctx, `INSERT INTO memory_versions (id, store_id, seq, memory_id, operation, path, content, sha256, size, created_at, actor_type, actor_id, redactor_type, redactor_id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', '')`, id, m.MemoryStoreID, seq, m.ID, operation, m.Path, content, digest, size, at.UnixMicro(), by.Type, by.ID())
	if err != nil {
		return "", fmt.Errorf("record a version: %w", err)
	}
	return id, nil
}

// VersionFilter selects versions of a store. Zero fields select all.
type VersionFilter struct {
	WorkspaceID, StoreID string
	MemoryID, Operation  string
	ActorType, ActorID   string    // who made them
	From, To             time.Time // created at or after, and at or before
	Contents             bool      // is what they hold asked for
	Before               int64     // position of the last version of the page before
	Limit                int
}

// Version is a version and its position in the history of its store.
type Version struct {
	api.MemoryVersion
	Position int64 `json:"-"`
}

const versionColumns = "content, id, store_id, seq, memory_id, operation, path, sha256, size, created_at, actor_type, actor_id, redacted_at, redactor_type, redactor_id"

func scanVersion(row interface{ Scan(...any) error }) (v Version, err error) {
	var created int64
	var redacted sql.NullInt64
	var by, redactor [2]string
	err = row.Scan(&v.Content, &v.ID, &v.MemoryStoreID, &v.Position, &v.MemoryID, &v.Operation, &v.Path, &v.ContentSHA256, &v.ContentSizeBytes,
		&created, &by[0], &by[1], &redacted, &redactor[0], &redactor[1])
	v.Type, v.CreatedAt = "memory_version", time.UnixMicro(created).UTC()
	actor := api.NewMemoryActor(by[0], by[1])
	v.CreatedBy = &actor
	if redacted.Valid {
		at, who := time.UnixMicro(redacted.Int64).UTC(), api.NewMemoryActor(redactor[0], redactor[1])
		v.RedactedAt, v.RedactedBy = &at, &who
	}
	return v, err
}

// Versions returns a page of a store's history, latest first, and whether more
// follow.
func (s *Store) Versions(ctx context.Context, f VersionFilter) (versions []Version, more bool, err error) {
	columns := versionColumns
	if !f.Contents {
		columns = none + strings.TrimPrefix(columns, "content")
	}
	query, args := "SELECT "+columns+" FROM memory_versions WHERE store_id = ?", []any{f.StoreID}
	for _, c := range []struct{ column, value string }{{"memory_id", f.MemoryID}, {"operation", f.Operation}, {"actor_type", f.ActorType}, {"actor_id", f.ActorID}} {
		if c.value != "" {
			query, args = query+" AND "+c.column+" = ?", append(args, c.value)
		}
	}
	query, args = span(query, args, f.From, f.To)
	if f.Before != 0 {
		query, args = query+" AND seq < ?", append(args, f.Before)
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		versions = nil
		if _, err := get(ctx, tx, f.WorkspaceID, f.StoreID, ""); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, query+" ORDER BY seq DESC LIMIT ?", append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			v, err := scanVersion(rows)
			if err != nil {
				return err
			}
			versions = append(versions, v)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list versions of memories: %w", err)
	}
	versions, more = cut(versions, f.Limit)
	return versions, more, nil
}

func findVersion(ctx context.Context, tx db.Tx, storeID, id, lock string) (Version, error) {
	v, err := scanVersion(tx.QueryRow(ctx, "SELECT "+versionColumns+" FROM memory_versions WHERE store_id = ? AND id = ?"+lock, storeID, id))
	if errors.Is(err, sql.ErrNoRows) {
		return v, api.NotFound("memory version", id)
	}
	if err != nil {
		return v, fmt.Errorf("read version %s: %w", id, err)
	}
	return v, nil
}

// Version returns a version with its content.
func (s *Store) Version(ctx context.Context, workspaceID, storeID, id string) (v Version, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, storeID, ""); err != nil {
			return err
		}
		v, err = findVersion(ctx, tx, storeID, id, "")
		return err
	})
	return v, err
}

// Redact takes out of a version what it holds, for good. The current version of a
// memory is the memory, and cannot be redacted. Repeating it is harmless.
func (s *Store) Redact(ctx context.Context, workspaceID, storeID, id string, by api.MemoryActor) (v Version, err error) {
	err = s.db.Write(ctx, func(tx db.Tx) (err error) {
		if _, err := get(ctx, tx, workspaceID, storeID, tx.ForUpdate()); err != nil {
			return err
		}
		if v, err = findVersion(ctx, tx, storeID, id, ""); err != nil || v.RedactedAt != nil {
			return err
		}
		var current string
		err = tx.QueryRow(ctx, "SELECT version_id FROM memories WHERE id = ?", v.MemoryID).Scan(&current)
		switch {
		case err == nil && current == id:
			return api.BadRequest("version %s is what memory %s holds; update or delete the memory first", id, v.MemoryID)
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("read the memory of version %s: %w", id, err)
		}
		now := s.clock()
		v.Path, v.Content, v.ContentSHA256, v.ContentSizeBytes = nil, nil, nil, nil
		v.RedactedAt, v.RedactedBy = &now, &by
		_, err = tx.Exec(ctx, "UPDATE memory_versions SET path = NULL, content = NULL, sha256 = NULL, size = NULL, redacted_at = ?, redactor_type = ?, redactor_id = ? WHERE id = ?",
			now.UnixMicro(), by.Type, by.ID(), id)
		return err
	})
	return v, err
}

const (
	// retention is how long every version is kept.
	retention = 30 * 24 * time.Hour
	// recent is how many of a memory's latest versions are kept for as long as it
	// is there.
	recent = 10
	// sweepEvery is how often older ones are removed.
	sweepEvery = time.Hour
)

// Run removes old versions until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("could not remove old versions of memories; trying again later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// Sweep removes the versions that are older than the retention: of a memory that
// was deleted all, once its deletion is as old, and of others all but the recent.
func (s *Store) Sweep(ctx context.Context) error {
	before := s.now().Add(-retention).UnixMicro()
	for _, query := range []string{
		"DELETE FROM memory_versions WHERE memory_id IN (SELECT memory_id FROM memory_versions WHERE operation = 'deleted' AND created_at < ?)",
		`DELETE FROM memory_versions WHERE created_at < ? AND EXISTS (SELECT 1 FROM memories m WHERE m.id = memory_versions.memory_id) AND seq <= (
			SELECT w.seq FROM memory_versions w WHERE w.memory_id = memory_versions.memory_id ORDER BY w.seq DESC LIMIT 1 OFFSET ` + fmt.Sprint(recent) + ")",
	} {
		err := s.db.Write(ctx, func(tx db.Tx) error {
			_, err := tx.Exec(ctx, query, before)
			return err
		})
		if err != nil {
			return fmt.Errorf("remove old versions: %w", err)
		}
	}
	return nil
}
