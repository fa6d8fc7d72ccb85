package queue

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hearth/api"
	"hearth/internal/db"
)

// tokenPrefix tells a sessions token from the other credentials.
const tokenPrefix = "hst_"

// tokenLife is the backstop of a token's life, which really ends with its claim.
const tokenLife = 24 * time.Hour

// Token is what a valid sessions token stands for.
type Token struct {
	SessionID, EnvironmentID, WorkID string
	// Claim is the number of the claim the token was given for.
	Claim int64
}

type claims struct {
	jwt.RegisteredClaims        // sub is the session
	EnvironmentID        string `json:"env"`
	WorkID               string `json:"wrk"`
	Claim                int64  `json:"clm"`
}

// secret is the item's secret as the wire carries it.
func (q *Queue) secret(it *item) (string, error) {
	now := q.now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: it.sessionID, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife)),
		},
		EnvironmentID: it.environmentID, WorkID: it.id, Claim: it.claim,
	}).SignedString(q.SigningKey)
	if err != nil {
		return "", fmt.Errorf("sign a sessions token: %w", err)
	}
	raw, err := json.Marshal(api.WorkSecret{SessionsToken: tokenPrefix + token})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// IsToken tells whether a bearer credential has the form of a sessions token.
func IsToken(credential string) bool { return strings.HasPrefix(credential, tokenPrefix) }

// VerifyToken checks a sessions token: its signature, its expiry, and that its
// claim is the item's current one and has not been over, by a stop or a lapse,
// for longer than the grace. It answers 401 otherwise, beside what a token that
// was once good stood for.
func (q *Queue) VerifyToken(ctx context.Context, token string) (Token, error) {
	var c claims
	_, err := jwt.ParseWithClaims(strings.TrimPrefix(token, tokenPrefix), &c,
		func(*jwt.Token) (any, error) { return q.SigningKey, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(q.now))
	if errors.Is(err, jwt.ErrTokenExpired) {
		return Token{}, api.Unauthenticated("the sessions token has expired; poll for work again")
	}
	if err != nil {
		return Token{}, api.Unauthenticated("the sessions token is not valid")
	}
	t := Token{SessionID: c.Subject, EnvironmentID: c.EnvironmentID, WorkID: c.WorkID, Claim: c.Claim}
	var claim int64
	var over sql.NullInt64
	err = q.DB.Read(ctx, func(tx db.Tx) error {
		// An item that nobody claims is back on offer: the lease has lapsed.
		return tx.QueryRow(ctx, `SELECT claim, COALESCE(stopped_at, CASE WHEN claimed_at IS NULL THEN not_before END)
			FROM work WHERE id = ?`, t.WorkID).Scan(&claim, &over)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t, api.Unauthenticated("the sessions token's work item no longer exists")
	case err != nil:
		return t, fmt.Errorf("verify a sessions token: %w", err)
	case claim != t.Claim:
		return t, api.Unauthenticated("the sessions token belongs to an earlier claim of its work item")
	case over.Valid && q.now().Sub(time.UnixMicro(over.Int64)) > q.TokenGrace:
		return t, api.Unauthenticated("the sessions token's work item has stopped, or its lease has lapsed")
	}
	return t, nil
}
