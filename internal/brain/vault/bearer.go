package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// Bearer is a token for an MCP server, and whose it is.
type Bearer struct {
	Token        string
	VaultID      string
	CredentialID string
}

// Bearer finds the token that a session has for an MCP server: that of the first of
// its vaults which has a credential for the server, refreshed if it is about to
// expire. Found is false when none has one. A token that has expired and could not
// be refreshed is a *RefreshError.
func (s *Store) Bearer(ctx context.Context, workspaceID string, vaultIDs []string, serverURL string) (b Bearer, found bool, err error) {
	c, found, err := s.find(ctx, workspaceID, vaultIDs, digest("mcp", Normalize(serverURL)))
	if err != nil || !found {
		return Bearer{}, false, err
	}
	now := s.now()
	if expiresBy(c.Auth, now.Add(early)) {
		fresh, err := s.refresh(ctx, c, now.Add(-pause))
		switch {
		case err == nil:
			c = fresh
		case expiresBy(c.Auth, now):
			return Bearer{}, true, err
		}
		// Else it is good for some seconds more, and the failure has been logged.
	}
	b, err = s.bearer(ctx, c)
	return b, true, err
}

// Renew is for who has been told by the server that a token is no good, whatever is
// known of its expiry: it returns another one, or a *RefreshError. When somebody has
// renewed the token meanwhile, that one is returned.
func (s *Store) Renew(ctx context.Context, workspaceID string, refused Bearer) (Bearer, error) {
	c, err := s.read(ctx, workspaceID, refused.VaultID, refused.CredentialID)
	if err != nil {
		return Bearer{}, err
	}
	current, err := s.bearer(ctx, c)
	if err != nil || current.Token != refused.Token {
		return current, err
	}
	if c, err = s.refresh(ctx, c, s.now().Add(-pause)); err != nil {
		return Bearer{}, err
	}
	return s.bearer(ctx, c)
}

func (s *Store) bearer(ctx context.Context, c credential) (Bearer, error) {
	if c.ArchivedAt != nil {
		return Bearer{}, api.NotFound("credential", c.ID)
	}
	token, err := s.Sealer.Open(ctx, place(c.Credential, placeToken), c.kept.token)
	return Bearer{Token: token, VaultID: c.VaultID, CredentialID: c.ID}, err
}

// find finds the open credential with a key in the first of some vaults that has one.
func (s *Store) find(ctx context.Context, workspaceID string, vaultIDs []string, key string) (found credential, ok bool, err error) {
	if len(vaultIDs) == 0 {
		return credential{}, false, nil
	}
	args := []any{workspaceID, key}
	for _, id := range vaultIDs {
		args = append(args, id)
	}
	query := "SELECT " + columns + " FROM vault_credentials c JOIN vaults v ON v.id = c.vault_id WHERE v.workspace_id = ? AND v.archived_at IS NULL AND c.match_key = ? AND v.id IN (?" + strings.Repeat(", ?", len(vaultIDs)-1) + ")"
	in := map[string]credential{}
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c credential
			if err := c.scan(rows); err != nil {
				return err
			}
			in[c.VaultID] = c
		}
		return rows.Err()
	})
	if err != nil {
		return credential{}, false, fmt.Errorf("look for a credential: %w", err)
	}
	for _, id := range vaultIDs {
		if c, ok := in[id]; ok {
			return c, true, nil
		}
	}
	return credential{}, false, nil
}

func expiresBy(a api.CredentialAuth, t time.Time) bool {
	return a.ExpiresAt != nil && !t.Before(*a.ExpiresAt)
}

// The times of refreshing.
const (
	// early is how long before its end a token is refreshed.
	early = 30 * time.Second
	// exchangeTimeout bounds a call of a token endpoint.
	exchangeTimeout = 20 * time.Second
	// claim is how long a server may take to refresh a token before others think
	// that it is gone: the call, and some more to store what came.
	claim = time.Minute
	// pause is how long nobody tries again after a refresh that has failed.
	pause = 30 * time.Second
)

// topic tells the servers of a database that a refresh is over, by the credential's id.
const topic = "vault_refresh"

// RefreshError says that an access token could not be refreshed. It can be shown to
// those who use the credential.
type RefreshError struct {
	VaultID, CredentialID string
	Failure
}

// Failure is why.
type Failure struct {
	Outcome string `json:"outcome"`          // one of api.RefreshFailed, api.RefreshConnectError and api.RefreshNoRefreshToken
	Status  int    `json:"status,omitempty"` // of the token endpoint's answer; 0 without one
	Code    string `json:"code,omitempty"`   // the error it named, invalid_grant say
	Reason  string `json:"reason,omitempty"` // in words

	response *api.HTTPResponse // as far as it may be shown
}

func (e *RefreshError) Error() string {
	text := fmt.Sprintf("the access token of credential %s in vault %s could not be refreshed: ", e.CredentialID, e.VaultID)
	switch {
	case e.Reason != "":
		return text + e.Reason
	case e.Code != "":
		return text + fmt.Sprintf("the token endpoint answered %d %s", e.Status, e.Code)
	}
	return text + fmt.Sprintf("the token endpoint answered %d", e.Status)
}

func failed(c credential, f Failure) *RefreshError {
	return &RefreshError{VaultID: c.VaultID, CredentialID: c.ID, Failure: f}
}

// refresh has an access token refreshed, by this server or by one that is at it
// already, and returns the credential as it is then. A failure since the time given
// counts as the answer.
func (s *Store) refresh(ctx context.Context, c credential, since time.Time) (credential, error) {
	if c.kept.refreshToken == "" {
		return c, failed(c, Failure{Outcome: api.RefreshNoRefreshToken, Reason: "it has no refresh token; store a new access token, or create a credential with one"})
	}
	over, cancel := s.DB.Subscribe(topic)
	defer cancel()
	for {
		current, ours, err := s.claim(ctx, c, since)
		if err != nil {
			return c, err
		}
		if ours {
			// It is not given up half-way because somebody has gone: a refresh token
			// may be good for one use.
			return s.exchange(context.WithoutCancel(ctx), current)
		}
		if current.kept.token != c.kept.token {
			return current, nil
		}
		select {
		case <-ctx.Done():
			return c, ctx.Err()
		case <-over:
		case <-time.After(time.UnixMicro(current.claimedUntil).Sub(s.now())):
		}
	}
}

// claim makes this server the one that refreshes a token, unless another one is
// about it, or done with it.
func (s *Store) claim(ctx context.Context, c credential, since time.Time) (current credential, ours bool, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) (err error) {
		ours = false
		if current, err = getCredential(ctx, tx, c.VaultID, c.ID, tx.ForUpdate()); err != nil {
			return err
		}
		now := s.now()
		switch {
		case current.ArchivedAt != nil:
			return api.NotFound("credential", c.ID)
		case current.kept.token != c.kept.token, current.claimedUntil > now.UnixMicro():
			return nil
		case current.failure != "" && current.failedAt >= since.UnixMicro():
			var f Failure
			if err := json.Unmarshal([]byte(current.failure), &f); err != nil {
				return err
			}
			return failed(c, f)
		}
		ours, current.claimedUntil = true, now.Add(claim).UnixMicro()
		_, err = tx.Exec(ctx, "UPDATE vault_credentials SET claimed_until = ? WHERE id = ?", current.claimedUntil, c.ID)
		return err
	})
	return current, ours, err
}

// exchange gets a new access token for a credential that this server has claimed,
// and keeps it, with the new refresh token if there is one, in one transaction.
func (s *Store) exchange(ctx context.Context, c credential) (credential, error) {
	known, err := s.open(ctx, c)
	if err != nil {
		return c, errors.Join(err, s.settle(ctx, &c, func(*credential) error { return nil }))
	}
	calling, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	got, failure, cause := s.askTokenEndpoint(calling, *c.Auth.Refresh, known)
	if failure != nil {
		s.Log.Warn("an access token could not be refreshed", "vault", c.VaultID, "credential", c.ID, "outcome", failure.Outcome, "status", failure.Status, "code", failure.Code, "error", cause)
		if err := s.settle(ctx, &c, failure.note(s.now())); err != nil {
			return c, err
		}
		return c, failed(c, *failure)
	}
	now := s.moment()
	err = s.settle(ctx, &c, func(current *credential) error {
		current.Auth.ExpiresAt = nil
		if got.lifetime > 0 {
			at := now.Add(got.lifetime)
			current.Auth.ExpiresAt = &at
		}
		current.failedAt, current.failure = 0, ""
		s.keep(current, secrets{token: got.accessToken, refreshToken: got.refreshToken})
		return nil
	})
	return c, err
}

// note keeps a failure, for those who would try again at once.
func (f Failure) note(now time.Time) func(*credential) error {
	return func(c *credential) error {
		raw, err := json.Marshal(f)
		c.failedAt, c.failure = now.UnixMicro(), string(raw)
		return err
	}
}

// settle ends a claim with what came of it, and reads the credential anew. What came
// is dropped when the refresh token it came of is not the one that is kept any more:
// then somebody has replaced or archived the credential, and theirs is what counts.
// Since what came may be the only refresh token that is good, settle does not give up
// at the first error of the database.
func (s *Store) settle(ctx context.Context, c *credential, fn func(*credential) error) error {
	used := c.kept.refreshToken
	write := func(tx db.Tx) error {
		_, err := s.changeCredential(ctx, tx, c.VaultID, c.ID, func(current *credential) error {
			if current.kept.refreshToken != used {
				*c = *current
				return nil
			}
			current.claimedUntil = 0
			err := fn(current)
			*c = *current
			return err
		})
		tx.Notify(topic, c.ID)
		return err
	}
	var err error
	for pause := 100 * time.Millisecond; pause < claim/4; pause *= 2 {
		err = s.DB.Write(ctx, write)
		var wire *api.Error
		if err == nil || errors.As(err, &wire) {
			return err
		}
		s.Log.Error("what came of a refresh could not be stored yet", "credential", c.ID, "error", err)
		time.Sleep(pause)
	}
	return err
}
