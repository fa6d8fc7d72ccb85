package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"hearth/api"
	"hearth/internal/brain/seal"
	"hearth/internal/db"
)

// ChangeResources replaces a session's resources by what change makes of them. It
// is called under the session's lock, maybe more than once.
func (s *Store) ChangeResources(ctx context.Context, workspaceID, id string, change func([]json.RawMessage) ([]json.RawMessage, error)) error {
	_, err := s.mutate(ctx, id, func(m *mutation) error {
		if m.workspaceID != workspaceID {
			return api.NotFound("session", id)
		}
		if m.archived.Valid {
			return api.Conflict("session %s is archived; its resources cannot be changed", id)
		}
		var before []json.RawMessage
		if err := json.Unmarshal([]byte(m.resources), &before); err != nil {
			return fmt.Errorf("decode the resources of session %s: %w", id, err)
		}
		after, err := change(before)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(after)
		if err != nil {
			return err
		}
		m.resources = string(raw)
		_, err = m.tx.Exec(ctx, "UPDATE sessions SET resources = ? WHERE id = ?", m.resources, id)
		return err
	})
	return err
}

// SetResourceToken keeps the sealed token of a resource; "" forgets it.
func (s *Store) SetResourceToken(ctx context.Context, sessionID, resourceID, sealed string) error {
	return s.db.Write(ctx, func(tx db.Tx) error { return setToken(ctx, tx, sessionID, resourceID, sealed) })
}

func setToken(ctx context.Context, tx db.Tx, sessionID, resourceID, sealed string) error {
	if sealed == "" {
		_, err := tx.Exec(ctx, "DELETE FROM resource_tokens WHERE session_id = ? AND resource_id = ?", sessionID, resourceID)
		return err
	}
	_, err := tx.Exec(ctx, "INSERT INTO resource_tokens (session_id, resource_id, sealed) VALUES (?, ?, ?) ON CONFLICT (session_id, resource_id) DO UPDATE SET sealed = excluded.sealed", sessionID, resourceID, sealed)
	return err
}

// ResourceToken returns the sealed token of a resource, or "".
func (s *Store) ResourceToken(ctx context.Context, sessionID, resourceID string) (sealed string, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT sealed FROM resource_tokens WHERE session_id = ? AND resource_id = ?", sessionID, resourceID).Scan(&sealed)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read a token of session %s: %w", sessionID, err)
	}
	return sealed, nil
}

// Report logs a session.error about something that the hands could not do and no
// tool call can tell of.
func (s *Store) Report(ctx context.Context, id, message string) error {
	_, err := s.mutate(ctx, id, func(m *mutation) error {
		return m.append(&api.SessionErrorEvent{
			EventHead: api.EventHead{Type: api.EventSessionError},
			Error:     api.SessionError{Type: api.SessionErrorUnknown, Message: message, RetryStatus: api.RetryStatus{Type: api.RetryRetrying}},
		}, nil)
	})
	return err
}

// ResealTokens has the tokens of all resources sealed anew, each for the id of its
// resource, and returns how many have changed.
func (s *Store) ResealTokens(ctx context.Context, anew seal.AnewFunc) (changed int, err error) {
	return seal.AnewRows(ctx, s.db, "resource_tokens", "resource_id", "sealed", anew)
}
