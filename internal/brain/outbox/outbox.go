// Package outbox is how resources say what happens to them, in the transaction
// in which it happens: what is rolled back was never said, and what is said
// outlives a crash. It owns no data and may call db; webhooks are who listens.
package outbox

import (
	"context"

	"hearth/api"
	"hearth/internal/db"
)

// Outbox is told what happens in a workspace. An error undoes the transaction.
type Outbox interface {
	Announce(ctx context.Context, tx db.Tx, workspaceID string, events ...api.WebhookData) error
}

// Sender is embedded by what announces. Without an outbox, nobody listens.
type Sender struct{ to []Outbox }

// UseOutbox adds a listener. It must be called before anything is announced.
func (s *Sender) UseOutbox(o Outbox) { s.to = append(s.to, o) }

// Announce tells all listeners.
func (s *Sender) Announce(ctx context.Context, tx db.Tx, workspaceID string, events ...api.WebhookData) error {
	if len(events) == 0 {
		return nil
	}
	for _, o := range s.to {
		if err := o.Announce(ctx, tx, workspaceID, events...); err != nil {
			return err
		}
	}
	return nil
}
