// Package skill keeps skills: directories of instructions and files that agents
// read when they need them, in versions that never change. An upload is checked
// file by file and packed anew, so that what workers download is of one form,
// whatever came in. It owns the tables skills and skill_versions and the blobs
// below skills/, and may call db.
package skill

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
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"hearth/api"
	blobstore "hearth/internal/blob"
	"hearth/internal/db"
)

// maxDisplayName bounds a skill's label, in characters.
const maxDisplayName = 255

// Store is every skill.
type Store struct {
	db     *db.DB
	bodies *blob.Bucket
	log    *slog.Logger
	now    func() time.Time
}

// Config of a Store.
type Config struct {
	DB *db.DB
	// Blobs is where the archives of versions are kept.
	Blobs *blob.Bucket
	Log   *slog.Logger // default slog.Default()
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
	if err := cfg.DB.Migrate(ctx, "skill", dir); err != nil {
		return nil, err
	}
	return &Store{db: cfg.DB, bodies: cfg.Blobs, log: cfg.Log, now: time.Now}, nil
}

// prefix is where archives are in the blob store.
const prefix = "skills/"

// Create makes a skill of an upload. Its label is displayName, or its name if
// that is nil; its name must be no other skill's.
func (s *Store) Create(ctx context.Context, workspaceID string, displayName *string, u *Upload) (made api.SkillInfo, err error) {
	if displayName != nil {
		if err := checkDisplayName(*displayName); err != nil {
			return made, err
		}
	}
	v, err := s.receive(ctx, u)
	if err != nil {
		return made, err
	}
	label := v.Name
	if displayName != nil {
		label = *displayName
	}
	id := api.NewID(api.PrefixSkill)
	v.SkillID = id
	err = s.db.Write(ctx, func(tx db.Tx) error {
		result, err := tx.Exec(ctx, "INSERT INTO skills (id, workspace_id, name, display_name, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (workspace_id, name) DO NOTHING",
			id, workspaceID, v.Name, label, v.CreatedAt.UnixMicro(), v.CreatedAt.UnixMicro())
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, api.Conflict("%s: name: there is a skill named %s already; upload a version of it, or choose another name", manifestName, v.Name).WithCode("skill_name_taken"))
		}
		return insertVersion(ctx, tx, v)
	})
	if err != nil {
		s.discard(context.WithoutCancel(ctx), v.ID)
		return made, fmt.Errorf("create a skill: %w", err)
	}
	return api.SkillInfo{
		ID: id, Type: "skill", DisplayName: label, LatestVersionID: v.ID, Source: api.SkillSource{Type: api.SkillSourceCustom},
		CreatedAt: v.CreatedAt, UpdatedAt: v.CreatedAt,
	}, nil
}

func checkDisplayName(text string) error {
	if n := utf8.RuneCountInString(text); n == 0 || n > maxDisplayName || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return api.Invalid("display_name", "must be one line of 1 to %d characters", maxDisplayName)
	}
	return nil
}

// AddVersion makes an upload the latest version of a skill, whose name it must
// have.
func (s *Store) AddVersion(ctx context.Context, workspaceID, skillID string, u *Upload) (v api.SkillVersion, err error) {
	if _, err := s.Get(ctx, workspaceID, skillID); err != nil {
		return v, err
	}
	if v, err = s.receive(ctx, u); err != nil {
		return v, err
	}
	v.SkillID = skillID
	err = s.db.Write(ctx, func(tx db.Tx) error {
		var name string
		err := tx.QueryRow(ctx, "SELECT name FROM skills WHERE id = ? AND workspace_id = ?"+tx.ForUpdate(), skillID, workspaceID).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return api.NotFound("skill", skillID) // it was deleted meanwhile
		}
		if err != nil {
			return err
		}
		if name != v.Name {
			return api.Invalid(manifestName, "name: is %s in this upload, and must stay %s in every version of the skill", v.Name, name)
		}
		if err := insertVersion(ctx, tx, v); err != nil {
			return err
		}
		return touch(ctx, tx, skillID, v.CreatedAt)
	})
	if err != nil {
		s.discard(context.WithoutCancel(ctx), v.ID)
		return v, fmt.Errorf("add a version to skill %s: %w", skillID, err)
	}
	return v, nil
}

// receive checks an upload and stores its archive. Nothing refers to it yet.
func (s *Store) receive(ctx context.Context, u *Upload) (v api.SkillVersion, err error) {
	entries, err := u.entries()
	if err != nil {
		return v, err
	}
	b, err := bundleOf(entries)
	if err != nil {
		return v, err
	}
	m, err := b.manifest()
	if err != nil {
		return v, err
	}
	v = api.SkillVersion{
		ID: api.NewID(api.PrefixSkillVersion), Type: "skill_version", Name: m.name, Description: m.description,
		CreatedAt: s.now().UTC().Truncate(time.Microsecond),
	}
	err = blobstore.Write(ctx, s.bodies, prefix+v.ID, func(w io.Writer) error { return b.pack(w, m.name) })
	if err != nil {
		return v, fmt.Errorf("store a skill: %w", err)
	}
	return v, nil
}

func insertVersion(ctx context.Context, tx db.Tx, v api.SkillVersion) error {
	_, err := tx.Exec(ctx, `INSERT INTO skill_versions (id, skill_id, number, description, created_at)
		VALUES (?, ?, (SELECT COALESCE(MAX(number), 0) + 1 FROM skill_versions WHERE skill_id = ?), ?, ?)`,
		v.ID, v.SkillID, v.SkillID, v.Description, v.CreatedAt.UnixMicro())
	return err
}

func touch(ctx context.Context, tx db.Tx, skillID string, at time.Time) error {
	_, err := tx.Exec(ctx, "UPDATE skills SET updated_at = ? WHERE id = ?", at.UnixMicro(), skillID)
	return err
}

// scanner is a row or rows.
type scanner interface{ Scan(...any) error }

const selectSkill = `SELECT skills.id, display_name, created_at, updated_at,
	(SELECT v.id FROM skill_versions v WHERE v.skill_id = skills.id ORDER BY v.number DESC LIMIT 1) AS latest FROM skills`

func scanSkill(row scanner) (info api.SkillInfo, err error) {
	var created, updated int64
	err = row.Scan(&info.ID, &info.DisplayName, &created, &updated, &info.LatestVersionID)
	info.Type, info.Source.Type = "skill", api.SkillSourceCustom
	info.CreatedAt, info.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return info, err
}

const selectVersion = "SELECT v.id, v.skill_id, s.name, v.description, v.created_at, v.number FROM skill_versions v JOIN skills s ON s.id = v.skill_id"

// Version is a version and its place among those of its skill.
type Version struct {
	api.SkillVersion
	Number int64
}

func scanVersion(row scanner) (v Version, err error) {
	var created int64
	err = row.Scan(&v.ID, &v.SkillID, &v.Name, &v.Description, &created, &v.Number)
	v.Type, v.CreatedAt = "skill_version", time.UnixMicro(created).UTC()
	return v, err
}

// Get returns a skill.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (info api.SkillInfo, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		info, err = scanSkill(tx.QueryRow(ctx, selectSkill+" WHERE skills.id = ? AND workspace_id = ?", id, workspaceID))
		return err
	})
	return info, notFound(err, id)
}

// notFound says of a row that is not there that its skill is not.
func notFound(err error, skillID string) error {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return api.NotFound("skill", skillID).WithCode("skill_not_found")
	case err != nil:
		return fmt.Errorf("read skill %s: %w", skillID, err)
	}
	return nil
}

// List returns a page of skills, newest first, and whether more follow. After is
// the id of the last skill of the page before, "" for none.
func (s *Store) List(ctx context.Context, workspaceID, after string, limit int) (skills []api.SkillInfo, more bool, err error) {
	query, args := selectSkill+" WHERE workspace_id = ?", []any{workspaceID}
	if after != "" {
		query, args = query+" AND skills.id < ?", append(args, after)
	}
	return page(ctx, s.db, scanSkill, limit, query+" ORDER BY skills.id DESC LIMIT ?", args...)
}

// page reads up to limit rows, and tells whether there are more.
func page[T any](ctx context.Context, d *db.DB, scan func(scanner) (T, error), limit int, query string, args ...any) (all []T, more bool, err error) {
	err = d.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query, append(args, limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			one, err := scan(rows)
			if err != nil {
				return err
			}
			all = append(all, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list skills: %w", err)
	}
	if len(all) > limit {
		return all[:limit], true, nil
	}
	return all, false, nil
}

// Versions returns a page of a skill's versions, newest first, and whether more
// follow. Before is the number of the last version of the page before, 0 for none.
func (s *Store) Versions(ctx context.Context, workspaceID, skillID string, before int64, limit int) ([]Version, bool, error) {
	if _, err := s.Get(ctx, workspaceID, skillID); err != nil {
		return nil, false, err
	}
	query, args := selectVersion+" WHERE v.skill_id = ?", []any{skillID}
	if before != 0 {
		query, args = query+" AND v.number < ?", append(args, before)
	}
	return page(ctx, s.db, scanVersion, limit, query+" ORDER BY v.number DESC LIMIT ?", args...)
}

// Version returns a version of a skill by its id, or the latest one by
// api.LatestVersion.
func (s *Store) Version(ctx context.Context, workspaceID, skillID, id string) (v api.SkillVersion, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		v, err = version(ctx, tx, workspaceID, skillID, id)
		return err
	})
	return v, err
}

func version(ctx context.Context, tx db.Tx, workspaceID, skillID, id string) (api.SkillVersion, error) {
	latest, err := scanVersion(tx.QueryRow(ctx, selectVersion+" WHERE s.id = ? AND s.workspace_id = ? ORDER BY v.number DESC LIMIT 1", skillID, workspaceID))
	if err != nil || id == api.LatestVersion || id == latest.ID {
		return latest.SkillVersion, notFound(err, skillID)
	}
	v, err := scanVersion(tx.QueryRow(ctx, selectVersion+" WHERE v.skill_id = ? AND v.id = ?", skillID, id))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return v.SkillVersion, api.NotFound("skill version", id).WithCode("skill_not_found")
	case err != nil:
		return v.SkillVersion, fmt.Errorf("read version %s of skill %s: %w", id, skillID, err)
	}
	return v.SkillVersion, nil
}

// Open opens the archive of a version, by its id only; the caller closes it.
func (s *Store) Open(ctx context.Context, workspaceID, skillID, id string) (v api.SkillVersion, body io.ReadSeekCloser, err error) {
	if id == api.LatestVersion {
		return v, nil, api.NotFound("skill version", id)
	}
	if v, err = s.Version(ctx, workspaceID, skillID, id); err != nil {
		return v, nil, err
	}
	reader, err := s.bodies.NewReader(ctx, prefix+v.ID, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return v, nil, api.NotFound("skill version", id) // it was deleted meanwhile
	}
	if err != nil {
		return v, nil, fmt.Errorf("open version %s of skill %s: %w", id, skillID, err)
	}
	return v, reader, nil
}

// Delete removes a skill with all its versions. Agents that have it can begin no
// session any more; those that have begun keep their copy.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	var versions []string
	err := s.db.Write(ctx, func(tx db.Tx) error {
		result, err := tx.Exec(ctx, "DELETE FROM skills WHERE id = ? AND workspace_id = ?", id, workspaceID)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, api.NotFound("skill", id).WithCode("skill_not_found"))
		}
		versions, err = db.Strings(tx.Query(ctx, "DELETE FROM skill_versions WHERE skill_id = ? RETURNING id", id))
		return err
	})
	if err != nil {
		return fmt.Errorf("delete skill %s: %w", id, err)
	}
	for _, v := range versions {
		s.discard(context.WithoutCancel(ctx), v)
	}
	return nil
}

// DeleteVersion removes a version, by its id only. The last one stays with its
// skill.
func (s *Store) DeleteVersion(ctx context.Context, workspaceID, skillID, id string) error {
	if id == api.LatestVersion {
		return api.NotFound("skill version", id)
	}
	err := s.db.Write(ctx, func(tx db.Tx) error {
		// The lock is against deleting the last two at once.
		var left int
		if err := tx.QueryRow(ctx, "SELECT 1 FROM skills WHERE id = ? AND workspace_id = ?"+tx.ForUpdate(), skillID, workspaceID).Scan(&left); err != nil {
			return notFound(err, skillID)
		}
		if _, err := version(ctx, tx, workspaceID, skillID, id); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM skill_versions WHERE skill_id = ?", skillID).Scan(&left); err != nil {
			return err
		}
		if left == 1 {
			return api.Conflict("version %s is the only one of skill %s, which must have one; upload another first, or delete the skill", id, skillID)
		}
		if _, err := tx.Exec(ctx, "DELETE FROM skill_versions WHERE id = ?", id); err != nil {
			return err
		}
		return touch(ctx, tx, skillID, s.now())
	})
	if err != nil {
		return fmt.Errorf("delete version %s of skill %s: %w", id, skillID, err)
	}
	s.discard(context.WithoutCancel(ctx), id)
	return nil
}

func (s *Store) discard(ctx context.Context, versionID string) {
	if err := blobstore.Remove(ctx, s.bodies, prefix+versionID); err != nil {
		s.log.Warn("could not remove a skill's archive; the next sweep will", "version", versionID, "error", err)
	}
}

// Check checks the skills of an agent: those that are kept here must be here, in
// the version named.
func (s *Store) Check(ctx context.Context, workspaceID string, skills []api.Skill) error {
	_, err := s.Pin(ctx, workspaceID, "skills", skills)
	return err
}

// Pin returns the skills that stand in the field named with concrete versions,
// for a session to keep. Skills that are not kept here stay as they are.
func (s *Store) Pin(ctx context.Context, workspaceID, field string, skills []api.Skill) ([]api.Skill, error) {
	pinned := append([]api.Skill{}, skills...)
	err := s.db.Read(ctx, func(tx db.Tx) error {
		for i, ref := range skills {
			if ref.Type != api.SkillSourceCustom {
				continue
			}
			v, err := version(ctx, tx, workspaceID, ref.SkillID, cmp.Or(ref.Version, api.LatestVersion))
			if err != nil {
				return api.InField(fmt.Sprintf("%s[%d]", field, i), err)
			}
			pinned[i].Version = v.ID
		}
		return nil
	})
	return pinned, err
}

// Describe returns the versions of a session's skills that are still kept here.
func (s *Store) Describe(ctx context.Context, skills []api.Skill) (described []api.SkillVersion, err error) {
	if len(skills) == 0 {
		return nil, nil
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		described = nil
		for _, ref := range skills {
			v, err := scanVersion(tx.QueryRow(ctx, selectVersion+" WHERE v.skill_id = ? AND (v.id = ? OR ? = ?) ORDER BY v.number DESC LIMIT 1",
				ref.SkillID, ref.Version, ref.Version, api.LatestVersion))
			switch {
			case errors.Is(err, sql.ErrNoRows): // another's, or deleted since
			case err != nil:
				return fmt.Errorf("read skill %s: %w", ref.SkillID, err)
			default:
				described = append(described, v.SkillVersion)
			}
		}
		return nil
	})
	return described, err
}
