package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// dueTopic is notified when something is to be delivered.
const dueTopic = "webhooks:due"

// Announce implements outbox.Outbox: in the transaction of what has happened, it
// keeps the events that any endpoint asks for, for replays too, and makes
// deliveries to those that are enabled.
func (s *Store) Announce(ctx context.Context, tx db.Tx, workspaceID string, happened ...api.WebhookData) error {
	listening, err := endpoints(tx.Query(ctx, "SELECT "+columns+" FROM webhook_endpoints WHERE workspace_id = ?", workspaceID))
	if err != nil {
		return fmt.Errorf("look who listens: %w", err)
	}
	if len(listening) == 0 {
		return nil
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	for _, data := range happened {
		asked := slices.DeleteFunc(slices.Clone(listening), func(e api.WebhookEndpoint) bool { return !slices.Contains(e.EnabledEvents, data.Type) })
		if len(asked) == 0 {
			continue
		}
		data.OrganizationID, data.WorkspaceID = s.OrganizationID, workspaceID
		event := api.WebhookEvent{ID: api.NewID(api.PrefixWebhookEvent), Type: "event", CreatedAt: now, Data: data}
		raw, err := json.Marshal(event)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO webhook_events (id, workspace_id, type, created_at, json) VALUES (?, ?, ?, ?, ?)", event.ID, workspaceID, data.Type, now.UnixMicro(), string(raw))
		if err != nil {
			return fmt.Errorf("keep an event: %w", err)
		}
		for _, e := range asked {
			if e.State != api.WebhookEnabled {
				continue
			}
			if _, err := s.enqueue(ctx, tx, e.ID, event.ID, api.TriggerEvent); err != nil {
				return err
			}
		}
	}
	return nil
}

// enqueue makes a delivery that is due now.
func (s *Store) enqueue(ctx context.Context, tx db.Tx, endpointID, eventID, cause string) (id string, err error) {
	id = api.NewID(api.PrefixDelivery)
	now := s.now().UnixMicro()
	_, err = tx.Exec(ctx, `INSERT INTO webhook_deliveries (id, endpoint_id, event_id, cause, status, attempts, due_at, lease, created_at)
		VALUES (?, ?, ?, ?, ?, '[]', ?, 0, ?)`, id, endpointID, eventID, cause, api.DeliveryPending, now, now)
	if err != nil {
		return "", fmt.Errorf("make a delivery: %w", err)
	}
	tx.Notify(dueTopic, "")
	return id, nil
}
