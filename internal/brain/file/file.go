// Package file keeps files: what clients upload for sessions to read, and what
// sessions leave behind. Bodies are in the blob store, streamed in and out. It
// owns the table files and the blobs below files/, and may call db.
package file

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"hearth/api"
	blobstore "hearth/internal/blob"
	"hearth/internal/db"
)

// The limits of a file.
const (
	// MaxSize is how many bytes a file may have.
	MaxSize = 500 << 20
	// maxName and maxType bound a file's name and its media type, in characters.
	maxName = api.MaxFileName
	maxType = 127
	// A file that expires does so between an hour and ninety days after its upload.
	minLife = time.Hour
	maxLife = 90 * 24 * time.Hour
)

// Store is every file.
type Store struct {
	db     *db.DB
	bodies *blob.Bucket
	exists func(ctx context.Context, sessionID string) (bool, error)
	log    *slog.Logger
	now    func() time.Time
}

// Config of a Store.
type Config struct {
	DB *db.DB
	// Blobs is where bodies are kept.
	Blobs *blob.Bucket
	// SessionExists tells of a session that files belong to.
	SessionExists func(ctx context.Context, sessionID string) (bool, error)
	Log           *slog.Logger // default slog.Default()
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "file", dir); err != nil {
		return nil, err
	}
	return &Store{db: cfg.DB, bodies: cfg.Blobs, exists: cfg.SessionExists, log: cfg.Log, now: time.Now}, nil
}

// prefix is where bodies are in the blob store.
const prefix = "files/"

// Upload is a file on its way in.
type Upload struct {
	WorkspaceID string
	// SessionID is the session that leaves the file behind; "" for a client's.
	SessionID string
	store     *Store
	file      api.File
}

// Receive stores a body. Nothing refers to it before Keep; Drop takes it back. Of
// the name the last component is kept.
func (s *Store) Receive(ctx context.Context, name, mimeType string, body io.Reader) (*Upload, error) {
	u := &Upload{store: s, file: api.File{ID: api.NewID(api.PrefixFile), Type: "file", Filename: name, MIMEType: mimeType, Downloadable: true}}
	if mimeType == "" {
		u.file.MIMEType = "application/octet-stream"
	}
	if u.file.Filename = path.Base("/" + name); u.file.Filename == "/" {
		u.file.Filename = "unnamed" + extension(u.file.MIMEType)
	}
	if err := check(u.file.Filename, mimeType); err != nil {
		return nil, err
	}
	err := blobstore.Write(ctx, s.bodies, prefix+u.file.ID, func(w io.Writer) (err error) {
		u.file.SizeBytes, err = io.Copy(w, io.LimitReader(body, MaxSize+1))
		if err == nil && u.file.SizeBytes > MaxSize {
			err = &api.Error{Status: http.StatusRequestEntityTooLarge, Type: api.ErrTooLarge, Message: fmt.Sprintf("file: has more than %d bytes", int64(MaxSize))}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store a file: %w", err)
	}
	return u, nil
}

// extension is what the names of files of a type end with; "" for none.
func extension(mimeType string) string {
	all, _ := mime.ExtensionsByType(mimeType) // an unknown type has none
	if len(all) == 0 {
		return ""
	}
	return slices.MinFunc(all, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
}

func check(name, mimeType string) error {
	n := utf8.RuneCountInString(name)
	switch {
	case name == "." || name == "..":
		return api.Invalid("file", "has the filename %s, which means a directory", name)
	case n > maxName:
		return api.Invalid("file", "has a filename of %d characters, at most %d are allowed", n, maxName)
	case !utf8.ValidString(name):
		return api.Invalid("file", "has a filename that is not valid UTF-8")
	case strings.ContainsAny(name, api.NotInFileNames) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }):
		return api.Invalid("file", "has a filename with a control character or one of %s", api.NotInFileNames)
	case len(mimeType) > maxType || strings.ContainsFunc(mimeType, func(r rune) bool { return r < ' ' || r > '~' }):
		return api.Invalid("file", "has a content type that is none")
	}
	return nil
}

// Drop takes an upload back.
func (u *Upload) Drop(ctx context.Context) {
	u.store.discard(context.WithoutCancel(ctx), u.file.ID)
}

// Keep makes the upload a file, which expires after life unless that is 0. It is
// dropped if that fails.
func (u *Upload) Keep(ctx context.Context, life time.Duration) (api.File, error) {
	f := u.file
	f.CreatedAt = u.store.now().UTC().Truncate(time.Microsecond)
	var session sql.NullString
	if u.SessionID != "" {
		session = sql.NullString{String: u.SessionID, Valid: true}
		f.Scope = &api.FileScope{ID: u.SessionID, Type: "session"}
	}
	var expires sql.NullInt64
	if life != 0 {
		if life < minLife || life > maxLife {
			u.Drop(ctx)
			return f, api.Invalid("expires_in_seconds", "must be from %d to %d", int64(minLife/time.Second), int64(maxLife/time.Second))
		}
		end := f.CreatedAt.Add(life)
		f.ExpiresAt, expires = &end, sql.NullInt64{Int64: end.UnixMicro(), Valid: true}
	}
	err := u.store.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO files ("+columns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			f.ID, u.WorkspaceID, session, f.Filename, f.MIMEType, f.SizeBytes, f.CreatedAt.UnixMicro(), expires)
		return err
	})
	if err != nil {
		u.Drop(ctx)
		return f, fmt.Errorf("keep a file: %w", err)
	}
	return f, nil
}

const columns = "id, workspace_id, session_id, filename, mime_type, size, created_at, expires_at"

// scanner is a row or rows.
type scanner interface{ Scan(...any) error }

func scan(row scanner) (f api.File, err error) {
	var workspace string
	var session sql.NullString
	var created int64
	var expires sql.NullInt64
	err = row.Scan(&f.ID, &workspace, &session, &f.Filename, &f.MIMEType, &f.SizeBytes, &created, &expires)
	f.Type, f.Downloadable, f.CreatedAt = "file", true, time.UnixMicro(created).UTC()
	if session.Valid {
		f.Scope = &api.FileScope{ID: session.String, Type: "session"}
	}
	if expires.Valid {
		end := time.UnixMicro(expires.Int64).UTC()
		f.ExpiresAt = &end
	}
	return f, err
}

// Get returns what is known of a file. One that has expired is not found.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (f api.File, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		f, err = scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM files WHERE id = ? AND workspace_id = ?", id, workspaceID))
		return err
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return f, api.NotFound("file", id)
	case err != nil:
		return f, fmt.Errorf("read file %s: %w", id, err)
	case f.ExpiresAt != nil && !f.ExpiresAt.After(s.now()):
		return f, api.NotFound("file", id).WithCode("file_expired")
	}
	return f, nil
}

// Open opens a file's content, which the caller closes.
func (s *Store) Open(ctx context.Context, workspaceID, id string) (api.File, io.ReadSeekCloser, error) {
	f, err := s.Get(ctx, workspaceID, id)
	if err != nil {
		return f, nil, err
	}
	body, err := s.bodies.NewReader(ctx, prefix+id, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return f, nil, api.NotFound("file", id) // it was deleted meanwhile
	}
	if err != nil {
		return f, nil, fmt.Errorf("open file %s: %w", id, err)
	}
	return f, body, nil
}

// Filter selects files. Zero fields select all.
type Filter struct {
	WorkspaceID string
	SessionID   string
	IDs         []string
	After       string // id of the last file of the page before
	Limit       int
}

// List returns a page of files, newest first, and whether more follow.
func (s *Store) List(ctx context.Context, f Filter) (files []api.File, more bool, err error) {
	query := "SELECT " + columns + " FROM files WHERE workspace_id = ? AND (expires_at IS NULL OR expires_at > ?)"
	args := []any{f.WorkspaceID, s.now().UnixMicro()}
	if f.SessionID != "" {
		query, args = query+" AND session_id = ?", append(args, f.SessionID)
	}
	if f.After != "" {
		query, args = query+" AND id < ?", append(args, f.After)
	}
	if len(f.IDs) > 0 {
		query += " AND id IN (?" + strings.Repeat(", ?", len(f.IDs)-1) + ")"
		for _, id := range f.IDs {
			args = append(args, id)
		}
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			one, err := scan(rows)
			if err != nil {
				return err
			}
			files = append(files, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list files: %w", err)
	}
	if more = len(files) > f.Limit; more {
		files = files[:f.Limit]
	}
	return files, more, nil
}

// Delete removes a file. Sessions that have it mounted keep their copy.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	if _, err := s.Get(ctx, workspaceID, id); err != nil {
		return err
	}
	return s.remove(ctx, "id = ?", id)
}

// DeleteOf removes the files that a session has left behind.
func (s *Store) DeleteOf(ctx context.Context, sessionID string) error {
	return s.remove(ctx, "session_id = ?", sessionID)
}

// remove removes rows first, then their bodies: one whose removal is cut short is
// found by the next sweep.
func (s *Store) remove(ctx context.Context, which string, arg any) error {
	var ids []string
	err := s.db.Write(ctx, func(tx db.Tx) (err error) {
		ids, err = db.Strings(tx.Query(ctx, "DELETE FROM files WHERE "+which+" RETURNING id", arg))
		return err
	})
	if err != nil {
		return fmt.Errorf("delete files: %w", err)
	}
	for _, id := range ids {
		s.discard(context.WithoutCancel(ctx), id)
	}
	return nil
}

func (s *Store) discard(ctx context.Context, id string) {
	if err := blobstore.Remove(ctx, s.bodies, prefix+id); err != nil {
		s.log.Warn("could not remove a file's body; the next sweep will", "file", id, "error", err)
	}
}
