package server

import (
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/brain/webhook"
)

func (s *server) webhookRoutes() []route {
	const (
		webhooks    = "/v1/organizations/webhooks"
		oneWebhook  = webhooks + "/{webhook_endpoint_id}"
		deliveries  = oneWebhook + "/deliveries"
		oneDelivery = deliveries + "/{delivery_id}"
	)
	return []route{
		{"POST", webhooks, admin, s.createWebhook},
		{"GET", webhooks, viewer, s.listWebhooks},
		{"GET", oneWebhook, viewer, s.getWebhook},
		{"POST", oneWebhook, admin, s.updateWebhook},
		{"DELETE", oneWebhook, admin, s.deleteWebhook},
		{"POST", oneWebhook + "/regenerate_signing_secret", admin, s.regenerateWebhookSecret},
		// Ours: what became of each event, and how to have it again.
		{"GET", deliveries, viewer, s.listDeliveries},
		{"GET", oneDelivery, viewer, s.getDelivery},
		{"POST", oneDelivery + "/redeliver", developer, s.redeliver},
		{"POST", deliveries + "/replay", developer, s.replay},
	}
}

func (s *server) createWebhook(r *request) (any, error) {
	var p webhook.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Webhooks.Create(r.Context(), r.principal.WorkspaceID, p)
}

// listWebhooks is paged by ids, unlike most lists; a limit of 0 means the default.
func (s *server) listWebhooks(r *request) (any, error) {
	q := r.params()
	f := webhook.Filter{
		WorkspaceID: r.principal.WorkspaceID,
		AfterID:     q.text("after_id"), BeforeID: q.text("before_id"), Ascending: q.choice("order", "desc", "asc") == "asc",
		Limit: int(q.number("limit", 0, maxLimit, defaultLimit)),
	}
	if q.err != nil {
		return nil, q.err
	}
	if f.Limit == 0 {
		f.Limit = defaultLimit
	}
	list, more, err := s.Webhooks.List(r.Context(), f)
	if err != nil {
		return nil, err
	}
	out := api.IDPage[api.WebhookEndpoint]{Data: list, HasMore: more}
	if len(list) == 0 {
		out.Data = []api.WebhookEndpoint{}
		return out, nil
	}
	out.FirstID, out.LastID = &list[0].ID, &list[len(list)-1].ID
	return out, nil
}

func (s *server) getWebhook(r *request) (any, error) {
	return s.Webhooks.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("webhook_endpoint_id"))
}

func (s *server) updateWebhook(r *request) (any, error) {
	var p webhook.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Webhooks.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("webhook_endpoint_id"), p)
}

func (s *server) deleteWebhook(r *request) (any, error) {
	id := r.PathValue("webhook_endpoint_id")
	return api.Deleted{ID: id, Type: "webhook_endpoint_deleted"}, s.Webhooks.Delete(r.Context(), r.principal.WorkspaceID, id)
}

func (s *server) regenerateWebhookSecret(r *request) (any, error) {
	return s.Webhooks.RegenerateSecret(r.Context(), r.principal.WorkspaceID, r.PathValue("webhook_endpoint_id"))
}

func (s *server) listDeliveries(r *request) (any, error) {
	q := r.params()
	f := webhook.DeliveryFilter{
		WorkspaceID: r.principal.WorkspaceID,
		EndpointID:  r.PathValue("webhook_endpoint_id"), EventType: q.text("event_type"), After: q.cursor("deliveries").ID, Limit: q.limit(),
		Status: q.choice("status", "", api.DeliveryPending, api.DeliveryDelivered, api.DeliveryFailed, api.DeliveryCanceled),
	}
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Webhooks.Deliveries(r.Context(), f)
	return page(list, more, func(d api.WebhookDelivery) cursor { return cursor{List: "deliveries", ID: d.ID} }), err
}

func (s *server) getDelivery(r *request) (any, error) {
	return s.Webhooks.Delivery(r.Context(), r.principal.WorkspaceID, r.PathValue("webhook_endpoint_id"), r.PathValue("delivery_id"))
}

func (s *server) redeliver(r *request) (any, error) {
	return s.Webhooks.Redeliver(r.Context(), r.principal.WorkspaceID, r.PathValue("webhook_endpoint_id"), r.PathValue("delivery_id"))
}

func (s *server) replay(r *request) (any, error) {
	var p struct {
		From             api.Optional[string] `json:"from"`
		To               api.Optional[string] `json:"to"`
		EventTypes       []string             `json:"event_types"`
		IncludeDelivered bool                 `json:"include_delivered"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	if !p.From.Given() {
		return nil, api.Invalid("from", "is required: the time from which on events are delivered again")
	}
	out := webhook.ReplayParams{To: time.Now(), EventTypes: p.EventTypes, All: p.IncludeDelivered}
	var err error
	if out.From, err = parseTime("from", p.From.Value); err != nil {
		return nil, err
	}
	if p.To.Given() {
		if out.To, err = parseTime("to", p.To.Value); err != nil {
			return nil, err
		}
	}
	if n := len(p.EventTypes); n > len(api.WebhookEvents) {
		return nil, api.Invalid("event_types", "lists %d types of event, and there are only %d", n, len(api.WebhookEvents))
	}
	for _, t := range p.EventTypes {
		if !slices.Contains(api.WebhookEvents, t) {
			return nil, api.Invalid("event_types", "%.80q is not the type of an event; session.status_idled is one", t)
		}
	}
	return s.Webhooks.Replay(r.Context(), r.principal.WorkspaceID, r.PathValue("webhook_endpoint_id"), out)
}
