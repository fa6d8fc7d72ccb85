package memory

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"hearth/api"
	"hearth/internal/db"
)

// Write is what a request asks a memory to become.
type Write struct {
	Path         *string       `json:"path"`
	Content      *string       `json:"content"`
	Precondition *Precondition `json:"precondition"`
}

// Precondition is what a memory must be for a write to apply.
type Precondition struct {
	Type          string `json:"type"` // "content_sha256"
	ContentSHA256 string `json:"content_sha256"`
}

func (p *Precondition) check(field string) error {
	if p == nil {
		return nil
	}
	if p.Type != "content_sha256" {
		return api.Invalid(field+".type", "must be content_sha256, not %.40q", p.Type)
	}
	return checkSHA256(field+".content_sha256", p.ContentSHA256)
}

func checkSHA256(field, text string) error {
	if len(text) != 2*sha256.Size || !api.IsDigest(text) {
		return api.Invalid(field, "must be a SHA-256 in 64 lowercase hexadecimal digits")
	}
	return nil
}

func sum(content string) string {
	digest := sha256.Sum256([]byte(content))
	return hex.EncodeToString(digest[:])
}

func checkContent(content string) error {
	if len(content) > api.MaxMemoryContent {
		return api.Invalid("content", "has %d bytes, at most %d are allowed", len(content), api.MaxMemoryContent)
	}
	return nil
}

func checkPath(path string) error {
	bad := func(format string, args ...any) error { return api.Invalid("path", format, args...) }
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case !strings.HasPrefix(path, "/"):
		return bad("must begin with a slash, as in /notes/today.md")
	case len(path) > api.MaxMemoryPath:
		return bad("has %d bytes, at most %d are allowed", len(path), api.MaxMemoryPath)
	case len(segments) > api.MaxMemorySegments:
		return bad("has %d segments, at most %d are allowed", len(segments), api.MaxMemorySegments)
	case strings.ContainsFunc(path, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }):
		return bad("must not contain control or format characters, or separators of lines")
	case !utf8.ValidString(path) || !norm.NFC.IsNormalString(path):
		return bad("must be in Unicode normalization form C")
	case path == "/"+api.MemoryMarker:
		return bad("is that of the file by which workers know the store's directory")
	}
	for _, segment := range segments {
		if segment == "" || segment == "." || segment == ".." {
			return bad("must not have segments that are empty, . or ..")
		}
	}
	return nil
}

// checkPrefix checks the path of a directory, "/" for that of all.
func checkPrefix(prefix string) error {
	if !strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/") {
		return api.Invalid("path_prefix", "must begin and end with a slash, as in /notes/")
	}
	if len(prefix) > api.MaxMemoryPath+1 {
		return api.Invalid("path_prefix", "has %d bytes, at most %d are allowed", len(prefix), api.MaxMemoryPath+1)
	}
	return nil
}

// below are the first path of those that begin with a prefix, which ends with a
// slash, and the first that comes after them.
func below(prefix string) (from, to []byte) {
	return []byte(prefix), []byte(prefix[:len(prefix)-1] + string(rune('/'+1)))
}

// Add makes a memory. The path must be free, and neither above nor below another's.
func (s *Store) Add(ctx context.Context, workspaceID, storeID string, by api.MemoryActor, w Write) (m api.Memory, err error) {
	switch {
	case w.Path == nil:
		return m, api.Invalid("path", "is required")
	case w.Content == nil:
		return m, api.Invalid("content", "is required; give an empty text for an empty memory")
	}
	if err := errors.Join(checkPath(*w.Path), checkContent(*w.Content)); err != nil {
		return m, err
	}
	err = s.db.Write(ctx, func(tx db.Tx) error {
		if err := open(ctx, tx, workspaceID, storeID); err != nil {
			return err
		}
		var there int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM memories WHERE store_id = ?", storeID).Scan(&there); err != nil {
			return err
		}
		if err := free(ctx, tx, storeID, *w.Path, ""); err != nil {
			return err
		}
		if there >= api.MaxMemories {
			return api.BadRequest("memory store %s has %d memories, the most a store can have; delete one first", storeID, there)
		}
		now := s.clock()
		m = api.Memory{ID: api.NewID(api.PrefixMemory), Type: api.TypeMemory, MemoryStoreID: storeID, CreatedAt: now}
		return s.save(ctx, tx, &m, *w.Path, *w.Content, api.MemoryCreated, by)
	})
	return m, err
}

// free tells whether a memory, or another one than self, may be at a path.
func free(ctx context.Context, tx db.Tx, storeID, path, self string) error {
	from, to := below(path + "/")
	query, args := "SELECT id, path FROM memories WHERE store_id = ? AND id <> ? AND (path >= ? AND path < ? OR path IN (?", []any{storeID, self, from, to, []byte(path)}
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		query, args = query+", ?", append(args, []byte(path[:i]))
	}
	var id string
	var other []byte
	err := tx.QueryRow(ctx, query+")) ORDER BY path LIMIT 1", args...).Scan(&id, &other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for what is at a path: %w", err)
	}
	return &api.Error{
		Status: http.StatusConflict, Type: api.ErrMemoryPath, NoRetry: true, ConflictingMemoryID: id, ConflictingPath: string(other),
		Message: fmt.Sprintf("path: memory %s is at %s; rename or delete it first, or update it", id, other),
	}
}

// save gives a memory a new version and makes that its content.
func (s *Store) save(ctx context.Context, tx db.Tx, m *api.Memory, path, content, operation string, by api.MemoryActor) error {
	m.Path, m.Content, m.ContentSHA256, m.ContentSizeBytes = path, &content, sum(content), int64(len(content))
	m.UpdatedAt = s.clock()
	if operation == api.MemoryCreated {
		m.UpdatedAt = m.CreatedAt
	}
	var err error
	if m.MemoryVersionID, err = s.record(ctx, tx, m, operation, by); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO memories (id, store_id, path, sha256, size, version_id, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET path = excluded.path, sha256 = excluded.sha256, size = excluded.size, version_id = excluded.version_id, updated_at = excluded.updated_at`,
		m.ID, m.MemoryStoreID, []byte(path), m.ContentSHA256, m.ContentSizeBytes, m.MemoryVersionID, m.CreatedAt.UnixMicro(), m.UpdatedAt.UnixMicro())
	if err != nil {
		return fmt.Errorf("save a memory: %w", err)
	}
	return nil
}

const (
	columns  = "m.id, m.store_id, m.path, m.sha256, m.size, m.version_id, m.created_at, m.updated_at, "
	contents = "v.content"
	none     = "NULL" // in place of the contents
)

// from is where the columns are read. The content is that of the current version.
const from = " FROM memories m JOIN memory_versions v ON v.id = m.version_id WHERE m.store_id = ?"

func scan(row interface{ Scan(...any) error }) (m api.Memory, err error) {
	var path []byte
	var created, updated int64
	err = row.Scan(&m.ID, &m.MemoryStoreID, &path, &m.ContentSHA256, &m.ContentSizeBytes, &m.MemoryVersionID, &created, &updated, &m.Content)
	m.Type, m.Path, m.CreatedAt, m.UpdatedAt = api.TypeMemory, string(path), time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return m, err
}

func find(ctx context.Context, tx db.Tx, storeID, id string) (api.Memory, error) {
	m, err := scan(tx.QueryRow(ctx, "SELECT "+columns+contents+from+" AND m.id = ?", storeID, id))
	if errors.Is(err, sql.ErrNoRows) {
		return m, api.NotFound("memory", id)
	}
	if err != nil {
		return m, fmt.Errorf("read memory %s: %w", id, err)
	}
	return m, nil
}

// Memory returns a memory with its content.
func (s *Store) Memory(ctx context.Context, workspaceID, storeID, id string) (m api.Memory, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, storeID, ""); err != nil {
			return err
		}
		m, err = find(ctx, tx, storeID, id)
		return err
	})
	return m, err
}

// Set changes a memory's content, its path or both. What changes nothing makes no
// version.
func (s *Store) Set(ctx context.Context, workspaceID, storeID, id string, by api.MemoryActor, w Write) (m api.Memory, err error) {
	if w.Path != nil {
		err = checkPath(*w.Path)
	}
	if w.Content != nil {
		err = errors.Join(err, checkContent(*w.Content))
	}
	if err := errors.Join(err, w.Precondition.check("precondition")); err != nil {
		return m, err
	}
	err = s.db.Write(ctx, func(tx db.Tx) (err error) {
		if err := open(ctx, tx, workspaceID, storeID); err != nil {
			return err
		}
		if m, err = find(ctx, tx, storeID, id); err != nil {
			return err
		}
		if w.Precondition != nil && w.Precondition.ContentSHA256 != m.ContentSHA256 {
			return changed("precondition.content_sha256", id)
		}
		path, content := m.Path, *m.Content
		if w.Path != nil {
			path = *w.Path
		}
		if w.Content != nil {
			content = *w.Content
		}
		if path == m.Path && content == *m.Content {
			return nil
		}
		if path != m.Path {
			if err := free(ctx, tx, storeID, path, id); err != nil {
				return err
			}
		}
		return s.save(ctx, tx, &m, path, content, api.MemoryModified, by)
	})
	return m, err
}

func changed(field, id string) error {
	return &api.Error{
		Status: http.StatusConflict, Type: api.ErrMemoryState, NoRetry: true,
		Message: fmt.Sprintf("%s: memory %s has other content by now; read it again and decide anew", field, id),
	}
}

// Remove deletes a memory; expected is the SHA-256 of the content it must have, or
// "". Its versions stay, and one more records the deletion.
func (s *Store) Remove(ctx context.Context, workspaceID, storeID, id string, by api.MemoryActor, expected string) error {
	if expected != "" {
		if err := checkSHA256("expected_content_sha256", expected); err != nil {
			return err
		}
	}
	return s.db.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, storeID, tx.ForUpdate()); err != nil {
			return err
		}
		m, err := find(ctx, tx, storeID, id)
		if err != nil {
			return err
		}
		if expected != "" && expected != m.ContentSHA256 {
			return changed("expected_content_sha256", id)
		}
		if _, err := s.record(ctx, tx, &m, api.MemoryDeleted, by); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM memories WHERE id = ?", id); err != nil {
			return fmt.Errorf("delete memory %s: %w", id, err)
		}
		return nil
	})
}

// MemoryFilter selects memories of a store.
type MemoryFilter struct {
	WorkspaceID, StoreID string
	// Prefix is the directory to list, "" for all there is.
	Prefix string
	// Shallow lists what is directly there, with an item for each directory.
	Shallow  bool
	Contents bool   // is what they hold asked for
	After    string // path of the last item of the page before
	Limit    int
}

// Item is a memory, or the path of a directory in place of those in it.
type Item struct {
	Memory    api.Memory
	Directory string // "" for a memory; ends with a slash
}

// Path is where the item is.
func (i Item) Path() string {
	if i.Directory != "" {
		return i.Directory
	}
	return i.Memory.Path
}

// Memories returns a page of a store's memories by path, and whether more
// follow.
func (s *Store) Memories(ctx context.Context, f MemoryFilter) (items []Item, more bool, err error) {
	if f.Prefix == "" {
		f.Prefix = "/"
	}
	if err := checkPrefix(f.Prefix); err != nil {
		return nil, false, err
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		items = nil
		if _, err := get(ctx, tx, f.WorkspaceID, f.StoreID, ""); err != nil {
			return err
		}
		start, end := below(f.Prefix)
		if f.After != "" {
			start = after(f.After)
		}
		for start != nil && len(items) <= f.Limit {
			found, next, err := f.some(ctx, tx, start, end, f.Limit+1-len(items))
			if err != nil {
				return err
			}
			items, start = append(items, found...), next
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	items, more = cut(items, f.Limit)
	return items, more, nil
}

// after is the first path that comes after an item's.
func after(path string) []byte {
	if strings.HasSuffix(path, "/") {
		_, next := below(path)
		return next
	}
	return []byte(path + "\x00")
}

// some reads items from a path on, and tells from which path to go on; nil if all
// have been read. It stops at a directory whose memories are to be passed over.
func (f MemoryFilter) some(ctx context.Context, tx db.Tx, start, end []byte, limit int) (items []Item, next []byte, err error) {
	content := none
	if f.Contents {
		content = contents
	}
	rows, err := tx.Query(ctx, "SELECT "+columns+content+from+" AND m.path >= ? AND m.path < ? ORDER BY m.path LIMIT ?", f.StoreID, start, end, limit)
	if err != nil {
		return nil, nil, fmt.Errorf("list memories: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		m, err := scan(rows)
		if err != nil {
			return nil, nil, fmt.Errorf("list memories: %w", err)
		}
		name := m.Path[min(len(f.Prefix), len(m.Path)):]
		if i := strings.IndexByte(name, '/'); f.Shallow && i >= 0 {
			directory := f.Prefix + name[:i+1]
			return append(items, Item{Directory: directory}), after(directory), nil
		}
		items = append(items, Item{Memory: m})
		next = after(m.Path)
	}
	if len(items) < limit {
		next = nil
	}
	return items, next, rows.Err()
}
