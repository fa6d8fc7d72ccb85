package session

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"hearth/api"
	"hearth/internal/db"
)

// Check checks what Create would, and creates nothing.
func (s *Store) Check(ctx context.Context, p CreateParams) error {
	_, err := s.check(ctx, p)
	return err
}

// existing reads a session that was created before with an id that was chosen
// then, whatever has become of it.
func existing(ctx context.Context, tx db.Tx, id string, r *row) (bool, error) {
	if id == "" {
		return false, nil
	}
	err := tx.QueryRow(ctx, "SELECT "+columns+" FROM sessions WHERE id = ?", id).Scan(r.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for session %s: %w", id, err)
	}
	return true, nil
}

// allowedAtFirst tells whether a session may begin with an event: a system.message
// only when a deployment starts it.
func (p CreateParams) allowedAtFirst(t api.EventType) bool {
	return t == api.EventUserMessage || t == api.EventSystemMessage && p.DeploymentID != ""
}
