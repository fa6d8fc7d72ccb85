// Package webhook tells others what happens: endpoints, the events they asked
// for, and deliveries, tried again until one is answered well. It owns the
// tables webhook_endpoints, webhook_failures, webhook_events and
// webhook_deliveries and may call outbound, seal and db.
package webhook

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/db"
)

// Sealer keeps signing secrets, each for its endpoint.
type Sealer interface {
	Seal(place, text string) string
	Open(ctx context.Context, place, sealed string) (string, error)
}

// Config of a Store. DB, Sealer, Client and OrganizationID are required.
type Config struct {
	DB             *db.DB
	Sealer         Sealer
	OrganizationID string // what events say it is
	// Client makes the requests. It must not follow redirects.
	Client *http.Client
	// AllowHTTP lets endpoints be at http:// addresses too.
	AllowHTTP bool
	Log       *slog.Logger // default slog.Default()
	// Backoff is how long after the first failed attempt of a delivery the second
	// is made; each pause is four times the one before, up to MaxBackoff, give or
	// take a fifth. Default 5 s, up to an hour.
	Backoff, MaxBackoff time.Duration
	// Attempts is how often a delivery is tried. Default 8, over about three hours.
	Attempts int
	// Timeout bounds an attempt. Default 10 s.
	Timeout time.Duration
	// GiveUpAfter is for how long every attempt must have failed before an
	// endpoint is disabled. Default 6 hours.
	GiveUpAfter time.Duration
}

// Store is every endpoint and what it is told.
type Store struct {
	Config
	now func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables. Run delivers.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	setDefault(&cfg.Backoff, 5*time.Second)
	setDefault(&cfg.MaxBackoff, time.Hour)
	setDefault(&cfg.Attempts, 8)
	setDefault(&cfg.Timeout, 10*time.Second)
	setDefault(&cfg.GiveUpAfter, 6*time.Hour)
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "webhook", dir); err != nil {
		return nil, err
	}
	return &Store{cfg, time.Now}, nil
}

func setDefault[T comparable](to *T, fallback T) {
	var zero T
	if *to == zero {
		*to = fallback
	}
}

// The limits of endpoints.
const (
	maxEndpoints   = 32
	maxURL         = 2048
	maxName        = 256
	maxDescription = 2048
)

// Params are the fields of a request to create or update an endpoint.
type Params struct {
	URL           api.Optional[string]   `json:"url"`
	Name          api.Optional[string]   `json:"name"`
	Description   api.Optional[string]   `json:"description"`
	EnabledEvents api.Optional[[]string] `json:"enabled_events"`
	State         api.Optional[string]   `json:"state"`
}

// apply changes an endpoint as the params ask.
func (s *Store) apply(p Params, e *api.WebhookEndpoint) error {
	if p.URL.Given() {
		if err := s.checkURL(p.URL.Value); err != nil {
			return err
		}
		e.URL = p.URL.Value
	}
	for _, text := range []struct {
		field string
		given api.Optional[string]
		most  int
		to    *string
	}{{"name", p.Name, maxName, &e.Name}, {"description", p.Description, maxDescription, &e.Description}} {
		if n := utf8.RuneCountInString(text.given.Value); n > text.most {
			return api.Invalid(text.field, "has %d characters, at most %d are allowed", n, text.most)
		}
		if text.given.Set {
			*text.to = text.given.Value
		}
	}
	if len(p.EnabledEvents.Value) > 0 {
		if n := len(p.EnabledEvents.Value); n > len(api.WebhookEvents) {
			return api.Invalid("enabled_events", "lists %d types of event, and there are only %d", n, len(api.WebhookEvents))
		}
		events := slices.Clone(p.EnabledEvents.Value)
		for i, event := range events {
			if !slices.Contains(api.WebhookEvents, event) {
				return api.Invalid(fmt.Sprintf("enabled_events[%d]", i), "%.80q is not the type of an event; session.status_idled is one", event)
			}
		}
		slices.Sort(events)
		e.EnabledEvents = slices.Compact(events)
	}
	if p.State.Given() {
		if p.State.Value != api.WebhookEnabled && p.State.Value != api.WebhookDisabled {
			return api.Invalid("state", "must be %s or %s", api.WebhookEnabled, api.WebhookDisabled)
		}
		e.State, e.DisabledReason = p.State.Value, ""
	}
	return nil
}

func (s *Store) checkURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case len(address) > maxURL:
		return api.Invalid("url", "has %d bytes, at most %d are allowed", len(address), maxURL)
	case err != nil || u.Host == "" || u.Opaque != "":
		return api.Invalid("url", "must be an address such as https://example.com/hooks")
	case u.Scheme == "http" && !s.AllowHTTP:
		return api.Invalid("url", "must begin with https://; the operator of this server can allow http:// with --allow-private-outbound")
	case u.Scheme != "https" && u.Scheme != "http":
		return api.Invalid("url", "must begin with https://")
	case u.User != nil:
		return api.Invalid("url", "must not hold a user or password; deliveries are signed")
	case u.Fragment != "":
		return api.Invalid("url", "must not have a fragment")
	}
	return nil
}

// secretPrefix is what secrets begin with; 32 bytes in base64 follow.
const secretPrefix = "whsec_"

func newSecret() (string, error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(raw), nil
}

// Create makes an endpoint. Its secret is in the answer and, sealed, in the
// database.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (made api.NewWebhookEndpoint, err error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	e := api.WebhookEndpoint{ID: api.NewID(api.PrefixWebhook), State: api.WebhookEnabled, EnabledEvents: []string{}, CreatedAt: now, UpdatedAt: now}
	switch {
	case !p.URL.Given():
		return made, api.Invalid("url", "is required")
	case len(p.EnabledEvents.Value) == 0:
		return made, api.Invalid("enabled_events", "must list at least one type of event")
	}
	p.State = api.Optional[string]{} // an endpoint begins enabled
	if err := s.apply(p, &e); err != nil {
		return made, err
	}
	secret, err := newSecret()
	if err != nil {
		return made, err
	}
	sealed := s.Sealer.Seal(e.ID, secret)
	events, err := json.Marshal(e.EnabledEvents)
	if err != nil {
		return made, err
	}
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM webhook_endpoints WHERE workspace_id = ?", workspaceID).Scan(&n); err != nil {
			return err
		}
		if n >= maxEndpoints {
			return api.BadRequest("the workspace has %d webhook endpoints, and no more are allowed; delete one first", n)
		}
		_, err := tx.Exec(ctx, `INSERT INTO webhook_endpoints (id, workspace_id, url, name, description, events, state, disabled_reason, secret, created_at, updated_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?)`, e.ID, workspaceID, e.URL, e.Name, e.Description, string(events), e.State, sealed, now.UnixMicro(), now.UnixMicro())
		return err
	})
	return api.NewWebhookEndpoint{WebhookEndpoint: e, SigningSecret: secret}, err
}

const columns = "id, url, name, description, events, state, disabled_reason, created_at, updated_at"

func scan(row interface{ Scan(...any) error }) (e api.WebhookEndpoint, err error) {
	var events string
	var created, updated int64
	err = row.Scan(&e.ID, &e.URL, &e.Name, &e.Description, &events, &e.State, &e.DisabledReason, &created, &updated)
	if err != nil {
		return e, err
	}
	e.CreatedAt, e.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return e, json.Unmarshal([]byte(events), &e.EnabledEvents)
}

// Get returns an endpoint, without its secret.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (e api.WebhookEndpoint, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		e, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return e, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (api.WebhookEndpoint, error) {
	e, err := scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM webhook_endpoints WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID))
	if errors.Is(err, sql.ErrNoRows) {
		return e, api.NotFound("webhook endpoint", id)
	}
	if err != nil {
		return e, fmt.Errorf("read webhook endpoint %s: %w", id, err)
	}
	return e, nil
}

// Filter selects endpoints by their place in the list: those right after one,
// or the first ones before one.
type Filter struct {
	WorkspaceID       string
	AfterID, BeforeID string
	Ascending         bool
	Limit             int
}

// List returns endpoints in the order asked, newest first by default, and
// whether there are more that the filter selects.
func (s *Store) List(ctx context.Context, f Filter) (list []api.WebhookEndpoint, more bool, err error) {
	after, before, direction := "<", ">", "DESC"
	if f.Ascending {
		after, before, direction = ">", "<", "ASC"
	}
	query, args := "SELECT "+columns+" FROM webhook_endpoints WHERE workspace_id = ?", []any{f.WorkspaceID}
	for _, bound := range []struct{ operator, id string }{{after, f.AfterID}, {before, f.BeforeID}} {
		if bound.id != "" {
			query, args = query+" AND id "+bound.operator+" ?", append(args, bound.id)
		}
	}
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		list, err = endpoints(tx.Query(ctx, query+" ORDER BY id "+direction+" LIMIT ?", append(args, f.Limit+1)...))
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list webhook endpoints: %w", err)
	}
	if len(list) > f.Limit {
		return list[:f.Limit], true, nil
	}
	return list, false, nil
}

func endpoints(rows *sql.Rows, err error) ([]api.WebhookEndpoint, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []api.WebhookEndpoint
	for rows.Next() {
		e, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// Update changes an endpoint. Absent fields stay, and so does the set of events
// when an empty one is given. Disabling cancels what waits to be delivered.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p Params) (e api.WebhookEndpoint, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) (err error) {
		if e, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		before := e
		if err := s.apply(p, &e); err != nil {
			return err
		}
		if before.State != e.State {
			if err := s.turned(ctx, tx, e); err != nil {
				return err
			}
		}
		if before.URL != e.URL {
			if err := s.forgive(ctx, tx, id); err != nil {
				return err
			}
		}
		if before.URL == e.URL && before.Name == e.Name && before.Description == e.Description && before.State == e.State && slices.Equal(before.EnabledEvents, e.EnabledEvents) {
			return nil
		}
		return s.save(ctx, tx, &e)
	})
	return e, err
}

func (s *Store) save(ctx context.Context, tx db.Tx, e *api.WebhookEndpoint) error {
	e.UpdatedAt = s.now().UTC().Truncate(time.Microsecond)
	events, err := json.Marshal(e.EnabledEvents)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE webhook_endpoints SET url = ?, name = ?, description = ?, events = ?, state = ?, disabled_reason = ?, updated_at = ? WHERE id = ?",
		e.URL, e.Name, e.Description, string(events), e.State, e.DisabledReason, e.UpdatedAt.UnixMicro(), e.ID)
	if err != nil {
		return fmt.Errorf("update webhook endpoint %s: %w", e.ID, err)
	}
	return nil
}

// turned follows a change of an endpoint's state.
func (s *Store) turned(ctx context.Context, tx db.Tx, e api.WebhookEndpoint) error {
	if e.State == api.WebhookDisabled {
		return s.cancel(ctx, tx, e.ID)
	}
	return s.forgive(ctx, tx, e.ID)
}

// forgive forgets that attempts have failed.
func (s *Store) forgive(ctx context.Context, tx db.Tx, endpointID string) error {
	_, err := tx.Exec(ctx, "DELETE FROM webhook_failures WHERE endpoint_id = ?", endpointID)
	return err
}

// cancel gives up what waits to be delivered to an endpoint.
func (s *Store) cancel(ctx context.Context, tx db.Tx, endpointID string) error {
	_, err := tx.Exec(ctx, "UPDATE webhook_deliveries SET status = ?, due_at = NULL, finished_at = ? WHERE endpoint_id = ? AND due_at IS NOT NULL",
		api.DeliveryCanceled, s.now().UnixMicro(), endpointID)
	if err != nil {
		return fmt.Errorf("cancel the deliveries to %s: %w", endpointID, err)
	}
	return nil
}

// Delete removes an endpoint, and all that was or was to be delivered to it.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	return s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		for _, query := range []string{
			"DELETE FROM webhook_deliveries WHERE endpoint_id = ?", "DELETE FROM webhook_failures WHERE endpoint_id = ?", "DELETE FROM webhook_endpoints WHERE id = ?",
		} {
			if _, err := tx.Exec(ctx, query, id); err != nil {
				return fmt.Errorf("delete webhook endpoint %s: %w", id, err)
			}
		}
		return nil
	})
}

// RegenerateSecret replaces an endpoint's secret. The old one signs nothing from
// now on, not even what is tried again.
func (s *Store) RegenerateSecret(ctx context.Context, workspaceID, id string) (api.WebhookSigningSecret, error) {
	secret, err := newSecret()
	if err != nil {
		return api.WebhookSigningSecret{}, err
	}
	sealed := s.Sealer.Seal(id, secret)
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE webhook_endpoints SET secret = ?, updated_at = ? WHERE id = ?", sealed, s.now().UnixMicro(), id)
		return err
	})
	if err != nil {
		return api.WebhookSigningSecret{}, err
	}
	return api.WebhookSigningSecret{SigningSecret: secret}, nil
}
