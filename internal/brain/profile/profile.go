// Package profile keeps user profiles: whom a platform serves through the API.
// It owns the table user_profiles and may call db.
package profile

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/db"
)

// maxText is how many characters a name, a hash or a reference may have.
const maxText = 255

// leeway is how far in the future an account may have been opened, for the
// clocks of platforms that are ahead.
const leeway = time.Minute

// Store is every user profile.
type Store struct {
	db  *db.DB
	now func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its table.
func New(ctx context.Context, d *db.DB) (*Store, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := d.Migrate(ctx, "profile", dir); err != nil {
		return nil, err
	}
	return &Store{db: d, now: time.Now}, nil
}

// Params are the fields of a request to create or update a profile.
type Params struct {
	Name       api.Optional[string]            `json:"name"`
	AccessType api.Optional[string]            `json:"access_type"`
	Metadata   api.Optional[map[string]string] `json:"metadata"`
	Details    api.Optional[DetailsParams]     `json:"external_user_details"`
	// What was there before the details.
	ExternalID  api.Optional[string] `json:"external_id"`
	OnboardedAt api.Optional[string] `json:"external_user_onboarded_at"`
}

// DetailsParams are what a platform says of an entity.
type DetailsParams struct {
	AccountStatus api.Optional[string] `json:"account_status"`
	Country       api.Optional[string] `json:"country"`
	EmailHash     api.Optional[string] `json:"email_hash"`
	EntityType    api.Optional[string] `json:"entity_type"`
	NameHash      api.Optional[string] `json:"name_hash"`
	OnboardedAt   api.Optional[string] `json:"onboarded_at"`
	ReferenceID   api.Optional[string] `json:"reference_id"`
}

// fits checks that the params have only fields of the version asked for.
func (p Params) fits(v api.ProfileVersion) error {
	old := v == api.Profiles202603 || v == api.Profiles202608
	switch {
	case p.Details.Set && old:
		return api.Invalid("external_user_details", "is not in the version %s; leave the anthropic-beta header out", v)
	case p.AccessType.Set && v == api.Profiles202603:
		return api.Invalid("access_type", "is not in the version %s; leave the anthropic-beta header out", v)
	case p.ExternalID.Set && !old:
		return api.Invalid("external_id", "belongs to older versions; give external_user_details.reference_id, or send anthropic-beta: %s", api.Profiles202608)
	case p.OnboardedAt.Set && v != api.Profiles202608:
		return api.Invalid("external_user_onboarded_at", "belongs to an older version; give external_user_details.onboarded_at, or send anthropic-beta: %s", api.Profiles202608)
	}
	return nil
}

// apply changes a profile as the params ask. Updating, metadata is merged and
// what the platform has said cannot be unsaid.
func (p Params) apply(u *api.UserProfile, updating bool, now time.Time) error {
	if p.Name.Set {
		if n := utf8.RuneCountInString(p.Name.Value); n > maxText {
			return api.Invalid("name", "has %d characters, at most %d are allowed", n, maxText)
		}
		u.Name = p.Name.Pointer()
	}
	if p.AccessType.Null && !updating {
		return api.Invalid("access_type", "must be %s or %s, or absent", api.AccessApplication, api.AccessPassthrough)
	}
	if p.AccessType.Given() {
		if !slices.Contains([]string{api.AccessApplication, api.AccessPassthrough}, p.AccessType.Value) {
			return api.Invalid("access_type", "must be %s or %s", api.AccessApplication, api.AccessPassthrough)
		}
		u.AccessType = p.AccessType.Value
	}
	if p.ExternalID.Set {
		if n := utf8.RuneCountInString(p.ExternalID.Value); n > maxText {
			return api.Invalid("external_id", "has %d characters, at most %d are allowed", n, maxText)
		}
		u.Details.ReferenceID = p.ExternalID.Pointer()
	}
	if err := setTime(&u.Details.OnboardedAt, "external_user_onboarded_at", p.OnboardedAt, now); err != nil {
		return err
	}
	if p.Details.Set && p.Details.Null {
		return api.Invalid("external_user_details", "must not be null; leave it out")
	}
	if err := p.Details.Value.apply(&u.Details, updating, now); err != nil {
		return err
	}
	if p.Metadata.Null {
		return api.Invalid("metadata", "must not be null; leave it out, or give {}")
	}
	return mergeMetadata(u.Metadata, p.Metadata.Value, updating)
}

// mergeMetadata merges a patch, whose empty values remove their keys where there
// can be any.
func mergeMetadata(metadata, patch map[string]string, updating bool) error {
	for key, value := range patch {
		switch {
		case value != "":
			metadata[key] = value
		case updating:
			delete(metadata, key)
		default:
			return api.Invalid("metadata", "the value of %.80q must not be empty", key).WithCode("invalid_metadata")
		}
	}
	return api.CheckMetadata(metadata)
}

var (
	accountStatuses = []string{"active", "suspended", "blocked"}
	entityTypes     = []string{"individual", "business", "non_profit", "government"}
)

const detailsField = "external_user_details."

func (p DetailsParams) apply(d *api.ExternalUserDetails, updating bool, now time.Time) error {
	for _, f := range []struct {
		name  string
		given api.Optional[string]
		to    **string
		check func(string) string // what is wrong with a value
	}{
		{"account_status", p.AccountStatus, &d.AccountStatus, among(accountStatuses)},
		{"country", p.Country, &d.Country, country},
		{"email_hash", p.EmailHash, &d.EmailHash, text},
		{"entity_type", p.EntityType, &d.EntityType, among(entityTypes)},
		{"name_hash", p.NameHash, &d.NameHash, text},
		{"reference_id", p.ReferenceID, &d.ReferenceID, text},
	} {
		switch {
		case !f.given.Set || f.given.Null && !updating:
			continue
		case f.given.Null:
			return api.Invalid(detailsField+f.name, "cannot be cleared; leave it out to keep it")
		}
		if wrong := f.check(f.given.Value); wrong != "" {
			return api.Invalid(detailsField+f.name, "%s", wrong)
		}
		*f.to = &f.given.Value
	}
	return setTime(&d.OnboardedAt, detailsField+"onboarded_at", p.OnboardedAt, now)
}

func among(words []string) func(string) string {
	return func(v string) string {
		if slices.Contains(words, v) {
			return ""
		}
		return fmt.Sprintf("must be one of %s, not %.40q", strings.Join(words, ", "), v)
	}
}

func country(v string) string {
	if len(v) == 2 && strings.Trim(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		return ""
	}
	return fmt.Sprintf("must be an ISO 3166-1 code of two capital letters such as US, not %.40q", v)
}

func text(v string) string {
	if n := utf8.RuneCountInString(v); n == 0 || n > maxText {
		return fmt.Sprintf("has %d characters, want 1 to %d", n, maxText)
	}
	return ""
}

// setTime sets the time when an account was opened.
func setTime(to **time.Time, field string, given api.Optional[string], now time.Time) error {
	if !given.Set {
		return nil
	}
	if given.Null {
		return api.Invalid(field, "cannot be cleared; leave it out to keep it")
	}
	t, err := time.Parse(time.RFC3339, given.Value)
	t = t.UTC()
	switch {
	case err != nil || t.Year() < 1:
		return api.Invalid(field, "must be an RFC 3339 time such as 2026-01-02T15:04:05Z, not %.60q", given.Value)
	case t.After(now.Add(leeway)):
		return api.Invalid(field, "must not be in the future")
	}
	*to = &t
	return nil
}

// Create makes a profile.
func (s *Store) Create(ctx context.Context, workspaceID string, v api.ProfileVersion, p Params) (api.UserProfile, error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	u := api.UserProfile{
		UserProfileCore: api.UserProfileCore{
			ID: api.NewID(api.PrefixUserProfile), Type: "user_profile", Metadata: map[string]string{}, TrustGrants: map[string]any{},
			CreatedAt: now, UpdatedAt: now,
		},
		AccessType: api.AccessApplication,
	}
	if err := p.fits(v); err != nil {
		return u, err
	}
	if err := p.apply(&u, false, now); err != nil {
		return u, err
	}
	raw, err := json.Marshal(u)
	if err != nil {
		return u, err
	}
	err = s.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO user_profiles (id, workspace_id, sort_name, json) VALUES (?, ?, ?, ?)", u.ID, workspaceID, SortName(u), string(raw))
		return err
	})
	return u, err
}

// SortName is what lists by name are sorted by: the name without regard to the
// case of ASCII letters; nil for none, and for an empty one.
func SortName(u api.UserProfile) []byte {
	if u.Name == nil || *u.Name == "" {
		return nil
	}
	return []byte(strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, *u.Name))
}

// Get returns a profile.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (u api.UserProfile, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		u, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return u, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (u api.UserProfile, err error) {
	var raw string
	err = tx.QueryRow(ctx, "SELECT json FROM user_profiles WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return u, api.NotFound("user profile", id)
	}
	if err != nil {
		return u, fmt.Errorf("read user profile %s: %w", id, err)
	}
	return u, json.Unmarshal([]byte(raw), &u)
}

// Update changes a profile. Absent fields stay.
func (s *Store) Update(ctx context.Context, workspaceID, id string, v api.ProfileVersion, p Params) (api.UserProfile, error) {
	var u api.UserProfile
	if err := p.fits(v); err != nil {
		return u, err
	}
	err := s.db.Write(ctx, func(tx db.Tx) (err error) {
		if u, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		before, err := json.Marshal(u)
		if err != nil {
			return err
		}
		now := s.now().UTC().Truncate(time.Microsecond)
		if err := p.apply(&u, true, now); err != nil {
			return err
		}
		after, err := json.Marshal(u)
		if err != nil || bytes.Equal(before, after) {
			return err
		}
		u.UpdatedAt = now
		raw, err := json.Marshal(u)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE user_profiles SET sort_name = ?, json = ? WHERE id = ?", SortName(u), string(raw), id)
		return err
	})
	return u, err
}

// Delete removes a profile.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	return s.db.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM user_profiles WHERE id = ?", id)
		return err
	})
}

// Query says which page of profiles to list, and in which order.
type Query struct {
	WorkspaceID string
	ByName      bool // else by time of creation
	Ascending   bool
	// After is the id of the last profile of the page before, "" for the first,
	// and AfterName its SortName.
	After     string
	AfterName []byte
	Limit     int
}

// List returns a page of profiles, and whether more follow. Sorted by name,
// those without one come last in either direction.
func (s *Store) List(ctx context.Context, q Query) (list []api.UserProfile, more bool, err error) {
	direction, beyond := " DESC", "<"
	if q.Ascending {
		direction, beyond = " ASC", ">"
	}
	query, args := "SELECT json FROM user_profiles WHERE workspace_id = ?", []any{q.WorkspaceID}
	order := "id" + direction
	if q.ByName {
		order = "sort_name IS NULL, sort_name" + direction + ", " + order
	}
	switch {
	case q.After == "":
	case !q.ByName:
		query, args = query+" AND id "+beyond+" ?", append(args, q.After)
	case q.AfterName == nil:
		query, args = query+" AND sort_name IS NULL AND id "+beyond+" ?", append(args, q.After)
	default:
		query += " AND (sort_name IS NULL OR sort_name " + beyond + " ? OR sort_name = ? AND id " + beyond + " ?)"
		args = append(args, q.AfterName, q.AfterName, q.After)
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		list, err = db.Objects[api.UserProfile](tx.Query(ctx, query+" ORDER BY "+order+" LIMIT ?", append(args, q.Limit+1)...))
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list user profiles: %w", err)
	}
	if len(list) > q.Limit {
		return list[:q.Limit], true, nil
	}
	return list, false, nil
}
