// Package memory keeps memory stores: texts at paths that sessions find mounted
// as directories, and the history of each. It owns the tables memory_stores,
// memories and memory_versions and may call db.
package memory

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/brain/outbox"
	"hearth/internal/db"
)

// Config of a Store.
type Config struct {
	DB  *db.DB
	Log *slog.Logger
	// Now tells the time. Default time.Now.
	Now func() time.Time
}

// Store is every memory store. It announces what happens to them as webhook events.
type Store struct {
	outbox.Sender
	db  *db.DB
	log *slog.Logger
	now func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, cfg Config) (*Store, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "memory", dir); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Store{db: cfg.DB, log: cfg.Log, now: cfg.Now}, nil
}

// clock is the time as it can be kept.
func (s *Store) clock() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// Params are the fields of a request to create or update a store.
type Params struct {
	Name        api.Optional[string]             `json:"name"`
	Description api.Optional[string]             `json:"description"`
	Metadata    api.Optional[map[string]*string] `json:"metadata"`
}

// The limits of a store's texts, in characters.
const (
	maxName        = 255
	maxDescription = 1024
)

func (p Params) apply(store *api.MemoryStore) error {
	if p.Name.Given() {
		n := utf8.RuneCountInString(p.Name.Value)
		if n == 0 || n > maxName || strings.ContainsFunc(p.Name.Value, unicode.IsControl) {
			return api.Invalid("name", "must have 1 to %d characters, none of them a control character", maxName)
		}
		store.Name = p.Name.Value
	}
	if p.Description.Given() {
		if n := utf8.RuneCountInString(p.Description.Value); n > maxDescription {
			return api.Invalid("description", "has %d characters, at most %d are allowed", n, maxDescription)
		}
		store.Description = p.Description.Value
	}
	if p.Metadata.Given() {
		return api.MergeMetadata(store.Metadata, p.Metadata.Value)
	}
	return nil
}

// Create makes an empty store. Names need not be unique.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (api.MemoryStore, error) {
	now := s.clock()
	store := api.MemoryStore{ID: api.NewID(api.PrefixMemoryStore), Type: "memory_store", Metadata: map[string]string{}, CreatedAt: now, UpdatedAt: now}
	if !p.Name.Given() {
		return store, api.Invalid("name", "is required")
	}
	if err := p.apply(&store); err != nil {
		return store, err
	}
	raw, err := json.Marshal(store)
	if err != nil {
		return store, err
	}
	err = s.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO memory_stores (id, workspace_id, created_at, seq, json) VALUES (?, ?, ?, 0, ?)", store.ID, workspaceID, now.UnixMicro(), string(raw))
		if err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("memory_store.created", store.ID))
	})
	if err != nil {
		return store, fmt.Errorf("create a memory store: %w", err)
	}
	return store, nil
}

// Get returns a store.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (store api.MemoryStore, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		store, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return store, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (store api.MemoryStore, err error) {
	var raw string
	err = tx.QueryRow(ctx, "SELECT json FROM memory_stores WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return store, api.NotFound("memory store", id)
	}
	if err != nil {
		return store, fmt.Errorf("read memory store %s: %w", id, err)
	}
	return store, json.Unmarshal([]byte(raw), &store)
}

// open locks a store whose memories are to be changed, one change at a time. An
// archived one cannot be written to.
func open(ctx context.Context, tx db.Tx, workspaceID, id string) error {
	store, err := get(ctx, tx, workspaceID, id, tx.ForUpdate())
	if err == nil && store.ArchivedAt != nil {
		err = archived(id)
	}
	return err
}

func archived(id string) error {
	return api.BadRequest("memory store %s is archived: it can be read, and what is in it deleted, but not changed", id).WithCode("memory_store_archived")
}

// Filter selects stores. Zero fields select all.
type Filter struct {
	WorkspaceID     string
	From, To        time.Time // created at or after, and at or before
	IncludeArchived bool
	After           string // id of the last store of the page before
	Limit           int
}

// List returns a page of stores, newest first, and whether more follow.
func (s *Store) List(ctx context.Context, f Filter) (stores []api.MemoryStore, more bool, err error) {
	query, args := "SELECT json FROM memory_stores WHERE workspace_id = ?", []any{f.WorkspaceID}
	query, args = span(query, args, f.From, f.To)
	if !f.IncludeArchived {
		query += " AND archived_at IS NULL"
	}
	if f.After != "" {
		query, args = query+" AND id < ?", append(args, f.After)
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		stores, err = db.Objects[api.MemoryStore](tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit+1)...))
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list memory stores: %w", err)
	}
	stores, more = cut(stores, f.Limit)
	return stores, more, nil
}

func span(query string, args []any, from, to time.Time) (string, []any) {
	if !from.IsZero() {
		query, args = query+" AND created_at >= ?", append(args, from.UnixMicro())
	}
	if !to.IsZero() {
		query, args = query+" AND created_at <= ?", append(args, to.UnixMicro())
	}
	return query, args
}

// cut takes what one page holds of what was found.
func cut[T any](found []T, limit int) (page []T, more bool) {
	if len(found) > limit {
		return found[:limit], true
	}
	return found, false
}

// Update changes a store that is not archived. Absent fields stay.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p Params) (api.MemoryStore, error) {
	return s.change(ctx, workspaceID, id, func(store *api.MemoryStore) error {
		if store.ArchivedAt != nil {
			return archived(id)
		}
		return p.apply(store)
	})
}

// Archive closes a store to new sessions and to changes, for good. Repeating it is
// harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.MemoryStore, error) {
	return s.change(ctx, workspaceID, id, func(store *api.MemoryStore) error {
		if store.ArchivedAt == nil {
			now := s.clock()
			store.ArchivedAt = &now
		}
		return nil
	})
}

func (s *Store) change(ctx context.Context, workspaceID, id string, fn func(*api.MemoryStore) error) (store api.MemoryStore, err error) {
	err = s.db.Write(ctx, func(tx db.Tx) (err error) {
		if store, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		closed := store.ArchivedAt != nil
		before, err := json.Marshal(store)
		if err != nil {
			return err
		}
		if err := fn(&store); err != nil {
			return err
		}
		after, err := json.Marshal(store)
		if err != nil || bytes.Equal(before, after) {
			return err
		}
		store.UpdatedAt = s.clock()
		if after, err = json.Marshal(store); err != nil {
			return err
		}
		var archived sql.NullInt64
		if store.ArchivedAt != nil {
			archived = sql.NullInt64{Int64: store.ArchivedAt.UnixMicro(), Valid: true}
		}
		_, err = tx.Exec(ctx, "UPDATE memory_stores SET archived_at = ?, json = ? WHERE id = ?", archived, string(after), id)
		if err != nil || closed || store.ArchivedAt == nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("memory_store.archived", id))
	})
	return store, err
}

// Delete removes a store with all that was ever in it.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	return s.db.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		for _, query := range []string{"DELETE FROM memory_versions WHERE store_id = ?", "DELETE FROM memories WHERE store_id = ?", "DELETE FROM memory_stores WHERE id = ?"} {
			if _, err := tx.Exec(ctx, query, id); err != nil {
				return fmt.Errorf("delete memory store %s: %w", id, err)
			}
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("memory_store.deleted", id))
	})
}

// mounts is the directory that stores are mounted below.
const mounts = "/mnt/memory/"

// maxSlug leaves room for what tells stores of one name apart, in bytes.
const maxSlug = 200

// Resource is a store as a session finds it, without what the session says of it.
// It implements resource.Memories.
func (s *Store) Resource(ctx context.Context, workspaceID, id string) (api.MemoryResource, error) {
	store, err := s.Get(ctx, workspaceID, id)
	if err != nil {
		return api.MemoryResource{}, err
	}
	if store.ArchivedAt != nil {
		return api.MemoryResource{}, api.BadRequest("memory store %s is archived and cannot be given to new sessions", id).WithCode("memory_store_archived")
	}
	return api.MemoryResource{Type: api.ResourceMemory, MemoryStoreID: id, Name: store.Name, Description: store.Description, MountPath: mounts + slug(store)}, nil
}

// slug is the store's name as that of a directory: in lowercase, with a hyphen in
// place of each run of what is no ASCII letter or digit.
func slug(store api.MemoryStore) string {
	words := strings.FieldsFunc(strings.ToLower(store.Name), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	if len(words) == 0 {
		return store.ID // a name in another script
	}
	name := strings.Join(words, "-")
	return name[:min(len(name), maxSlug)]
}
