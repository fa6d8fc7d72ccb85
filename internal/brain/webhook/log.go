package webhook

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// DeliveryFilter selects deliveries of an endpoint. Zero fields select all.
type DeliveryFilter struct {
	WorkspaceID string
	EndpointID  string
	Status      string
	EventType   string
	After       string // id of the last one of the page before
	Limit       int
}

const deliveryQuery = `SELECT d.id, d.endpoint_id, d.event_id, e.type, d.cause, d.status, d.attempts, d.due_at, d.created_at, d.finished_at
	FROM webhook_deliveries d JOIN webhook_events e ON e.id = d.event_id WHERE d.endpoint_id = ?`

func scanDelivery(row interface{ Scan(...any) error }) (api.WebhookDelivery, error) {
	d := api.WebhookDelivery{Type: "webhook_delivery"}
	var attempts string
	var created int64
	var due, finished sql.NullInt64
	err := row.Scan(&d.ID, &d.EndpointID, &d.EventID, &d.EventType, &d.Trigger, &d.Status, &attempts, &due, &created, &finished)
	if err != nil {
		return d, err
	}
	d.CreatedAt, d.NextAttemptAt, d.FinishedAt = time.UnixMicro(created).UTC(), stamp(due), stamp(finished)
	return d, json.Unmarshal([]byte(attempts), &d.Attempts)
}

func stamp(micros sql.NullInt64) *time.Time {
	if !micros.Valid {
		return nil
	}
	at := time.UnixMicro(micros.Int64).UTC()
	return &at
}

// Deliveries returns a page of an endpoint's deliveries, newest first, and
// whether more follow.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) (list []api.WebhookDelivery, more bool, err error) {
	query, args := deliveryQuery, []any{f.EndpointID}
	for _, c := range []struct{ sql, value string }{{"d.status = ?", f.Status}, {"e.type = ?", f.EventType}, {"d.id < ?", f.After}} {
		if c.value != "" {
			query, args = query+" AND "+c.sql, append(args, c.value)
		}
	}
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, f.WorkspaceID, f.EndpointID, ""); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, query+" ORDER BY d.id DESC LIMIT ?", append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			d, err := scanDelivery(rows)
			if err != nil {
				return err
			}
			list = append(list, d)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, err
	}
	if len(list) > f.Limit {
		return list[:f.Limit], true, nil
	}
	return list, false, nil
}

// Delivery returns one delivery of an endpoint.
func (s *Store) Delivery(ctx context.Context, workspaceID, endpointID, id string) (d api.WebhookDelivery, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, endpointID, ""); err != nil {
			return err
		}
		d, err = delivery(ctx, tx, endpointID, id)
		return err
	})
	return d, err
}

func delivery(ctx context.Context, tx db.Tx, endpointID, id string) (api.WebhookDelivery, error) {
	d, err := scanDelivery(tx.QueryRow(ctx, deliveryQuery+" AND d.id = ?", endpointID, id))
	if errors.Is(err, sql.ErrNoRows) {
		return d, api.NotFound("webhook delivery", id)
	}
	if err != nil {
		return d, fmt.Errorf("read webhook delivery %s: %w", id, err)
	}
	return d, nil
}

// Redeliver makes a new delivery of what another one delivered or did not, with
// the same id of the event, signed anew.
func (s *Store) Redeliver(ctx context.Context, workspaceID, endpointID, id string) (d api.WebhookDelivery, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := enabled(ctx, tx, workspaceID, endpointID); err != nil {
			return err
		}
		old, err := delivery(ctx, tx, endpointID, id)
		if err != nil {
			return err
		}
		again, err := s.enqueue(ctx, tx, endpointID, old.EventID, api.TriggerRedelivery)
		if err != nil {
			return err
		}
		d, err = delivery(ctx, tx, endpointID, again)
		return err
	})
	return d, err
}

// enabled reads and locks an endpoint, which must be enabled.
func enabled(ctx context.Context, tx db.Tx, workspaceID, endpointID string) (api.WebhookEndpoint, error) {
	e, err := get(ctx, tx, workspaceID, endpointID, tx.ForUpdate())
	if err == nil && e.State != api.WebhookEnabled {
		err = api.Conflict("webhook endpoint %s is disabled; enable it first", endpointID)
	}
	return e, err
}

// ReplayParams are the body of a request to replay a range of time.
type ReplayParams struct {
	From, To   time.Time // inclusive, exclusive
	EventTypes []string  // empty for all the endpoint asks for
	// All replays what was delivered already, too.
	All bool
}

// maxReplay is how many events one replay may hold.
const maxReplay = 10_000

// Replay makes deliveries of what happened in a range of time: of the events
// that the endpoint asks for now, those that it has not got, and also those that
// happened while it was disabled. What is on its way is left alone, so that a
// replay that is repeated delivers nothing twice.
func (s *Store) Replay(ctx context.Context, workspaceID, endpointID string, p ReplayParams) (out api.WebhookReplay, err error) {
	out.Type = "webhook_replay"
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		e, err := enabled(ctx, tx, workspaceID, endpointID)
		if err != nil {
			return err
		}
		types := e.EnabledEvents
		if len(p.EventTypes) > 0 {
			types = slices.DeleteFunc(slices.Clone(types), func(t string) bool { return !slices.Contains(p.EventTypes, t) })
		}
		if len(types) == 0 {
			out.Deliveries = 0
			return nil
		}
		done := []any{api.DeliveryPending}
		if !p.All {
			done = append(done, api.DeliveryDelivered)
		}
		args := []any{workspaceID, p.From.UnixMicro(), p.To.UnixMicro()}
		for _, t := range types {
			args = append(args, t)
		}
		args = append(append(args, endpointID), done...)
		ids, err := db.Strings(tx.Query(ctx, "SELECT e.id FROM webhook_events e WHERE e.workspace_id = ? AND e.created_at >= ? AND e.created_at < ? AND e.type IN (?"+strings.Repeat(", ?", len(types)-1)+
			") AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.event_id = e.id AND d.endpoint_id = ? AND d.status IN (?"+strings.Repeat(", ?", len(done)-1)+
			")) ORDER BY e.created_at, e.id LIMIT ?", append(args, maxReplay+1)...))
		if err != nil {
			return fmt.Errorf("find the events to replay: %w", err)
		}
		if len(ids) > maxReplay {
			return api.BadRequest("from and to have more than %d events between them; replay a shorter time", maxReplay)
		}
		for _, id := range ids {
			if _, err := s.enqueue(ctx, tx, endpointID, id, api.TriggerReplay); err != nil {
				return err
			}
		}
		out.Deliveries = len(ids)
		return nil
	})
	return out, err
}
