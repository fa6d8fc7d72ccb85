package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/outbound"
	"hearth/internal/brain/outbox"
	"hearth/internal/brain/seal"
	"hearth/internal/brain/webhook"
	"hearth/internal/db"
)

const webhooksPath = "/v1/organizations/webhooks"

var webhookVerdicts = map[string]verdict{
	"POST " + webhooksPath:                                                               forRole(auth.RoleAdmin, `{"url":"https://example.com/hooks","enabled_events":["agent.created"]}`),
	"GET " + webhooksPath:                                                                forRole(auth.RoleViewer, ""),
	"GET " + webhooksPath + "/{webhook_endpoint_id}":                                     forRole(auth.RoleViewer, ""),
	"POST " + webhooksPath + "/{webhook_endpoint_id}":                                    forRole(auth.RoleAdmin, `{"name":"renamed"}`),
	"DELETE " + webhooksPath + "/{webhook_endpoint_id}":                                  forRole(auth.RoleAdmin, ""),
	"POST " + webhooksPath + "/{webhook_endpoint_id}/regenerate_signing_secret":          forRole(auth.RoleAdmin, ""),
	"GET " + webhooksPath + "/{webhook_endpoint_id}/deliveries":                          forRole(auth.RoleViewer, ""),
	"GET " + webhooksPath + "/{webhook_endpoint_id}/deliveries/{delivery_id}":            forRole(auth.RoleViewer, ""),
	"POST " + webhooksPath + "/{webhook_endpoint_id}/deliveries/{delivery_id}/redeliver": forRole(auth.RoleDeveloper, ""),
	"POST " + webhooksPath + "/{webhook_endpoint_id}/deliveries/replay":                  forRole(auth.RoleDeveloper, `{"from":"2026-01-01T00:00:00Z"}`),
}

var webhookForms = []form{
	{"POST " + webhooksPath, `{"url":"https://example.com/hooks","enabled_events":["agent.created"],"name":"n","description":"d"}`, map[string]string{
		"url": "string required", "enabled_events": "array required", "enabled_events[0]": "string choice", "name": "string null max 256", "description": "string null max 2048"}},
	{"POST " + webhooksPath + "/{webhook_endpoint_id}", `{"url":"https://example.com/hooks","enabled_events":["agent.created"],"name":"n","description":"d","state":"enabled"}`, map[string]string{
		"url": "string null", "enabled_events": "array null", "enabled_events[0]": "string choice", "name": "string null max 256", "description": "string null max 2048",
		"state": "string null choice"}},
	{"POST " + webhooksPath + "/{webhook_endpoint_id}/deliveries/replay", `{"from":"2026-01-01T00:00:00Z","to":"2026-01-01T00:00:01Z","event_types":["agent.created"],"include_delivered":true}`, map[string]string{
		"from": "string required choice", "to": "string null choice", "event_types": "array null", "include_delivered": "boolean null"}},
}

// newWebhooks are webhooks that are tried again soon and may reach this host.
func newWebhooks(ctx context.Context, d *db.DB, sealer *seal.Sealer, log *slog.Logger) (*webhook.Store, error) {
	allowed, err := outbound.ParseAllowed([]string{"127.0.0.1"})
	if err != nil {
		return nil, err
	}
	return webhook.New(ctx, webhook.Config{
		DB: d, Sealer: sealer, OrganizationID: auth.DefaultOrganization, Client: allowed.Client(), AllowHTTP: true, Log: log,
		Backoff: 10 * time.Millisecond, MaxBackoff: 20 * time.Millisecond, Attempts: 3, Timeout: 5 * time.Second, GiveUpAfter: time.Nanosecond,
	})
}

// tellWebhooks has all that happens told, as the command hearth serve does.
func tellWebhooks(cfg Config) {
	for _, tells := range []interface{ UseOutbox(outbox.Outbox) }{cfg.Sessions, cfg.Agents, cfg.Environments, cfg.Vaults, cfg.Memories, cfg.Deployments} {
		tells.UseOutbox(cfg.Webhooks)
	}
	cfg.Agents.UseOutbox(cfg.Deployments)
}

// addWebhook adds an endpoint with a delivery, to where nobody listens. Only so
// many are allowed at once: that of the site before, which is done with by then,
// makes room.
func (s *site) addWebhook() {
	s.t.Helper()
	there := ok[api.IDPage[api.WebhookEndpoint]](s.brain, s.brain.key, "GET", webhooksPath, nil)
	if len(there.Data) >= 10 {
		ok[api.Deleted](s.brain, s.brain.key, "DELETE", webhooksPath+"/"+there.Data[0].ID, nil)
	}
	made := s.webhook("https://127.0.0.1:1/hooks", "environment.updated")
	ok[api.Environment](s.brain, s.brain.key, "POST", "/v1/environments/"+s.env.ID, object{"description": "told"})
	list := ok[api.Page[api.WebhookDelivery]](s.brain, s.brain.key, "GET", webhooksPath+"/"+made.ID+"/deliveries", nil)
	s.ids["webhook_endpoint_id"], s.ids["delivery_id"] = made.ID, list.Data[0].ID
}

// webhook makes an endpoint that is told of the events.
func (b *brain) webhook(url string, events ...string) api.NewWebhookEndpoint {
	b.t.Helper()
	made := ok[api.NewWebhookEndpoint](b, b.key, "POST", webhooksPath, object{"url": url, "enabled_events": events})
	b.keepSecret(made.SigningSecret)
	return made
}

// receiver takes deliveries and holds each against its secret.
type receiver struct {
	*brain
	url string

	mu     sync.Mutex
	secret string        // guarded by mu
	status int           // what it answers with; guarded by mu
	got    []received    // guarded by mu
	hold   chan struct{} // if not nil, answers wait for it; guarded by mu
}

// received is one good delivery.
type received struct {
	id    string
	event anthropic.UnwrapWebhookEvent
	body  []byte
}

func (b *brain) receiver() *receiver {
	r := &receiver{brain: b, status: http.StatusOK}
	srv := httptest.NewServer(http.HandlerFunc(r.take))
	b.t.Cleanup(srv.Close)
	r.url = srv.URL + "/hooks"
	return r
}

func (r *receiver) take(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	r.mu.Lock()
	secret, status, hold := r.secret, r.status, r.hold
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	client := anthropic.NewClient(option.WithWebhookKey(secret), option.WithAPIKey("unused"))
	event, wrong := client.Beta.Webhooks.Unwrap(body, q.Header)
	if err != nil || wrong != nil || q.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("a bad delivery: %v %v: %s", err, wrong, body)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.mu.Lock()
	r.got = append(r.got, received{q.Header.Get("webhook-id"), *event, body})
	r.mu.Unlock()
	w.Header().Set("Location", r.url)
	w.WriteHeader(status)
}

func (r *receiver) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// types are those of the events received so far, each once.
func (r *receiver) types() []string {
	var types []string
	for _, one := range r.all() {
		types = append(types, one.event.Data.Type)
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// listen makes an endpoint at the receiver.
func (r *receiver) listen(events ...string) api.NewWebhookEndpoint {
	r.t.Helper()
	made := r.webhook(r.url, events...)
	r.set(func() { r.secret = made.SigningSecret })
	return made
}

func (b *brain) deliveries(endpointID, query string) []api.WebhookDelivery {
	b.t.Helper()
	return ok[api.Page[api.WebhookDelivery]](b, b.key, "GET", webhooksPath+"/"+endpointID+"/deliveries"+query, nil).Data
}

// TestWebhookEvents: everything a session, an agent and an environment go through
// arrives, as the official SDK reads it, and nothing else does.
func TestWebhookEvents(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		r := b.receiver()
		endpoint := r.listen(api.WebhookEvents...)
		agent, env := b.agent(), b.environment()
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+agent.ID, object{"name": "renamed"})
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+agent.ID, object{"name": "renamed"}) // changes nothing
		s := b.session(agent.ID, env.ID, "$ true")
		call := b.awaitIdle(s.ID).EventIDs[0]
		ok[object](b, b.key, "POST", "/v1/sessions/"+s.ID+"/events", object{"events": []object{{"type": "user.tool_result", "tool_use_id": call}}})
		b.eventually("the turn ends", func() bool { return b.awaitIdle(s.ID).Type == api.StopEndTurn })
		ok[api.Session](b, b.key, "POST", "/v1/sessions/"+s.ID, object{"title": "titled"})
		ok[api.Session](b, b.key, "POST", "/v1/sessions/"+s.ID+"/archive", nil)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/sessions/"+s.ID, nil)
		ok[api.Environment](b, b.key, "POST", "/v1/environments/"+env.ID, object{"description": "d"})
		ok[api.Environment](b, b.key, "POST", "/v1/environments/"+env.ID+"/archive", nil)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/environments/"+env.ID, nil)
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+agent.ID+"/archive", nil)
		vault := ok[api.Vault](b, b.key, "POST", "/v1/vaults", object{"display_name": "told"})
		ok[api.Vault](b, b.key, "POST", "/v1/vaults/"+vault.ID, object{"display_name": "renamed"}) // which nobody is told
		credential := func(name string) api.Credential {
			return ok[api.Credential](b, b.key, "POST", "/v1/vaults/"+vault.ID+"/credentials", object{"auth": object{
				"type": "static_bearer", "token": "a-token-nobody-may-see", "mcp_server_url": "https://mcp.example.com/" + name}})
		}
		gone, closed := credential("gone"), credential("closed")
		ok[api.Deleted](b, b.key, "DELETE", "/v1/vaults/"+vault.ID+"/credentials/"+gone.ID, nil)
		ok[api.Vault](b, b.key, "POST", "/v1/vaults/"+vault.ID+"/archive", nil) // and its credential with it
		ok[api.Deleted](b, b.key, "DELETE", "/v1/vaults/"+vault.ID, nil)
		// Nobody is told of the update, and the second archive changes nothing.
		memories := ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores", object{"name": "told"})
		for _, change := range []string{"", "/archive", "/archive"} {
			ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores/"+memories.ID+change, object{})
		}
		ok[api.Deleted](b, b.key, "DELETE", "/v1/memory_stores/"+memories.ID, nil)
		if a := b.do(b.key, "POST", "/v1/environments/"+env.ID+"/archive", nil); a.status != 404 {
			t.Errorf("archiving what is gone: %d", a.status)
		}
		want := []string{
			"agent.archived", "agent.created", "agent.updated", "environment.archived", "environment.created", "environment.deleted", "environment.updated",
			"memory_store.archived", "memory_store.created", "memory_store.deleted",
			"session.archived", "session.created", "session.deleted", "session.idled", "session.requires_action", "session.running", "session.status_idled",
			"session.status_run_started", "session.status_terminated", "session.thread_idled", "session.thread_terminated", "session.updated",
			"vault.archived", "vault.created", "vault.deleted", "vault_credential.archived", "vault_credential.created", "vault_credential.deleted",
		}
		b.eventually("all is delivered", func() bool {
			return slices.Equal(r.types(), want) && len(b.deliveries(endpoint.ID, "?status=pending")) == 0
		})
		count := map[string]int{}
		for _, one := range r.all() {
			count[one.event.Data.Type]++
			data := one.event.Data
			if one.id != one.event.ID || one.event.Type != "event" || data.OrganizationID != auth.DefaultOrganization || data.WorkspaceID != auth.DefaultWorkspace {
				t.Errorf("delivered as %s: %s", one.id, one.body)
			}
			kind, _, _ := strings.Cut(data.Type, ".")
			if wantID := map[string]string{"agent": agent.ID, "environment": env.ID, "memory_store": memories.ID, "session": s.ID, "vault": vault.ID}[kind]; data.ID != wantID && kind != "vault_credential" {
				t.Errorf("%s is about %s, want %s", data.Type, data.ID, wantID)
			}
			if credential := kind == "vault_credential"; credential != (data.VaultID == vault.ID) || credential && data.ID != gone.ID && data.ID != closed.ID {
				t.Errorf("%s is about %s in %s", data.Type, data.ID, data.VaultID)
			}
			if strings.HasPrefix(data.Type, "session.thread_") != (data.SessionThreadID != "") {
				t.Errorf("%s has the thread %q", data.Type, data.SessionThreadID)
			}
		}
		for event, n := range map[string]int{"agent.updated": 1, "session.status_run_started": 2, "session.status_idled": 2, "session.requires_action": 1, "vault_credential.created": 2, "vault_credential.deleted": 2, "vault_credential.archived": 1, "memory_store.archived": 1} {
			if count[event] != n {
				t.Errorf("%d times %s, want %d", count[event], event, n)
			}
		}
	})
}

// TestWebhookRetries: a delivery is tried again, with the same id, until it is
// answered well or has failed too often.
func TestWebhookRetries(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		r := b.receiver()
		r.set(func() { r.status = http.StatusInternalServerError })
		endpoint := r.listen("agent.created")
		b.agent()
		finished := func(status string) api.WebhookDelivery {
			t.Helper()
			var list []api.WebhookDelivery
			b.eventually("it is "+status, func() bool {
				list = b.deliveries(endpoint.ID, "?status="+status)
				return len(list) == 1
			})
			return list[0]
		}
		failed := finished(api.DeliveryFailed)
		if n := len(failed.Attempts); n != 3 || failed.FinishedAt == nil || failed.NextAttemptAt != nil || failed.EventType != "agent.created" {
			t.Errorf("failed: %+v", failed)
		}
		for _, a := range failed.Attempts {
			if a.Status != 500 || a.Error != "answered 500" || a.Seconds < 0 {
				t.Errorf("an attempt: %+v", a)
			}
		}
		if got := r.all(); len(got) != 3 || got[0].id != failed.EventID || got[2].id != failed.EventID {
			t.Errorf("received %d times", len(got))
		}
		r.set(func() { r.status = http.StatusAccepted })
		again := ok[api.WebhookDelivery](b, b.key, "POST", webhooksPath+"/"+endpoint.ID+"/deliveries/"+failed.ID+"/redeliver", nil)
		if again.EventID != failed.EventID || again.ID == failed.ID || again.Trigger != api.TriggerRedelivery {
			t.Errorf("redelivered as %+v", again)
		}
		if d := finished(api.DeliveryDelivered); d.ID != again.ID || len(d.Attempts) != 1 || d.Attempts[0].Error != "" || d.Attempts[0].Status != 202 {
			t.Errorf("delivered: %+v", d)
		}
	})
}

// TestWebhookDisabled: what happens while an endpoint is disabled is not
// delivered, unless it is replayed.
func TestWebhookDisabled(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		r := b.receiver()
		hold := make(chan struct{})
		r.set(func() { r.hold, r.status = hold, http.StatusServiceUnavailable })
		endpoint := r.listen("agent.created")
		path := webhooksPath + "/" + endpoint.ID
		b.agent()
		b.eventually("it is being delivered", func() bool { return len(b.deliveries(endpoint.ID, "")) == 1 })
		ok[api.WebhookEndpoint](b, b.key, "POST", path, object{"state": "disabled"})
		b.agent()
		close(hold)
		list := b.deliveries(endpoint.ID, "")
		if len(list) != 1 || list[0].Status != api.DeliveryCanceled || list[0].NextAttemptAt != nil {
			t.Errorf("while disabled: %+v", list)
		}
		for what, a := range map[string]answer{
			"redelivery": b.do(b.key, "POST", path+"/deliveries/"+list[0].ID+"/redeliver", nil),
			"replay":     b.do(b.key, "POST", path+"/deliveries/replay", object{"from": "2026-01-01T00:00:00Z"}),
		} {
			if a.status != http.StatusConflict {
				t.Errorf("%s to a disabled endpoint: %d %s", what, a.status, a.body)
			}
		}
		r.set(func() { r.status = http.StatusOK })
		if e := ok[api.WebhookEndpoint](b, b.key, "POST", path, object{"state": "enabled"}); e.State != api.WebhookEnabled || e.DisabledReason != "" {
			t.Errorf("enabled: %+v", e)
		}
		replay := func(body object, want int) {
			t.Helper()
			body["from"] = "2026-01-01T00:00:00Z"
			if got := ok[api.WebhookReplay](b, b.key, "POST", path+"/deliveries/replay", body); got.Deliveries != want {
				t.Errorf("replayed %d with %v, want %d", got.Deliveries, body, want)
			}
			b.eventually("all is delivered", func() bool { return len(b.deliveries(endpoint.ID, "?status=pending")) == 0 })
		}
		replay(object{"to": "2026-01-01T00:00:01Z"}, 0)
		replay(object{}, 2)
		replay(object{}, 0)
		replay(object{"include_delivered": true}, 2)
		replay(object{"include_delivered": true, "event_types": []string{"agent.updated"}}, 0)
		if n := len(b.deliveries(endpoint.ID, "?status=delivered")); n != 4 {
			t.Errorf("%d delivered, want 4", n)
		}
	})
}

// TestWebhookGivesUp: an endpoint that redirects, that is inside, or that fails
// for long, is disabled and says why.
func TestWebhookGivesUp(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		moved, failing := b.receiver(), b.receiver()
		moved.set(func() { moved.status = http.StatusFound })
		failing.set(func() { failing.status = http.StatusBadGateway })
		for reason, endpoint := range map[string]api.NewWebhookEndpoint{
			"redirect":           moved.listen("agent.created"),
			"private address":    b.webhook("https://10.1.2.3/hooks", "agent.created"),
			"link-local address": b.webhook("http://169.254.169.254/hooks", "agent.created"),
			"deliver":            failing.listen("agent.created"),
		} {
			var e api.WebhookEndpoint
			b.eventually("it is disabled for "+reason, func() bool {
				b.agent()
				e = ok[api.WebhookEndpoint](b, b.key, "GET", webhooksPath+"/"+endpoint.ID, nil)
				return e.State == api.WebhookDisabled
			})
			if !strings.HasPrefix(e.DisabledReason, "auto-disabled: ") || !strings.Contains(e.DisabledReason, reason) {
				t.Errorf("disabled because %q, want %q in it", e.DisabledReason, reason)
			}
			b.eventually("nothing is to be delivered", func() bool { return len(b.deliveries(endpoint.ID, "?status=pending")) == 0 })
		}
		if n := len(moved.all()); n == 0 {
			t.Error("the redirect was never answered")
		}
	})
}

// TestWebhookSecret: the old secret ends at once, and no secret is ever shown again.
func TestWebhookSecret(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		r := b.receiver()
		endpoint := r.listen("agent.created")
		path := webhooksPath + "/" + endpoint.ID
		fresh := ok[api.WebhookSigningSecret](b, b.key, "POST", path+"/regenerate_signing_secret", nil)
		b.keepSecret(fresh.SigningSecret)
		if fresh.SigningSecret == endpoint.SigningSecret || !strings.HasPrefix(fresh.SigningSecret, "whsec_") {
			t.Errorf("the new secret is %q", fresh.SigningSecret)
		}
		r.set(func() { r.secret = fresh.SigningSecret })
		b.agent()
		b.eventually("it is delivered", func() bool { return len(r.all()) == 1 })
		for _, get := range []string{webhooksPath, path, path + "/deliveries"} {
			if a := b.do(b.key, "GET", get, nil); strings.Contains(string(a.body), "whsec_") {
				t.Errorf("%s shows a secret: %s", get, a.body)
			}
		}
	})
}

func TestWebhookEndpoints(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for url, wrong := range map[string]string{
			"": "url", "nonsense": "url", "ftp://example.com/": "https", "https://me:pw@example.com/": "password", "https://example.com/#x": "fragment", "https:///x": "address",
			"https://example.com/" + strings.Repeat("x", 2048): "bytes",
		} {
			a := b.do(b.key, "POST", webhooksPath, object{"url": url, "enabled_events": []string{"agent.created"}})
			if e := a.failure(); a.status != 400 || !strings.HasPrefix(e.Message, "url:") || !strings.Contains(e.Message, wrong) {
				t.Errorf("%.40s: %d %s", url, a.status, a.body)
			}
		}
		var made []string
		for i := range 32 {
			made = append(made, b.webhook(fmt.Sprintf("https://example.com/%d", i), "agent.created", "agent.archived", "agent.created").ID)
		}
		if a := b.do(b.key, "POST", webhooksPath, object{"url": "https://example.com", "enabled_events": []string{"agent.created"}}); a.status != 400 {
			t.Errorf("one too many: %d %s", a.status, a.body)
		}
		slices.Sort(made) // those of one millisecond are in no order of creation
		newest := slices.Clone(made)
		slices.Reverse(newest)
		pages := func(query string) (ids []string) {
			t.Helper()
			for after := ""; ; {
				p := ok[api.IDPage[api.WebhookEndpoint]](b, b.key, "GET", webhooksPath+"?limit=7"+query+after, nil)
				for _, e := range p.Data {
					ids = append(ids, e.ID)
				}
				if !p.HasMore {
					return ids
				}
				after = "&after_id=" + *p.LastID
			}
		}
		if got := pages(""); !slices.Equal(got, newest) {
			t.Errorf("newest first: %v", got)
		}
		if got := pages("&order=asc"); !slices.Equal(got, made) {
			t.Errorf("oldest first: %v", got)
		}
		before := ok[api.IDPage[api.WebhookEndpoint]](b, b.key, "GET", webhooksPath+"?limit=0&before_id="+newest[3], nil)
		if len(before.Data) != 3 || *before.FirstID != newest[0] || before.HasMore {
			t.Errorf("before the fourth: %+v", before)
		}
		path := webhooksPath + "/" + made[0]
		changed := ok[api.WebhookEndpoint](b, b.key, "POST", path, object{"name": "ops", "enabled_events": []string{}})
		if changed.Name != "ops" || !slices.Equal(changed.EnabledEvents, []string{"agent.archived", "agent.created"}) {
			t.Errorf("changed: %+v", changed)
		}
		if same := ok[api.WebhookEndpoint](b, b.key, "POST", path, object{"name": "ops"}); !same.UpdatedAt.Equal(changed.UpdatedAt) {
			t.Error("a change of nothing has changed updated_at")
		}
		gone := ok[api.Deleted](b, b.key, "DELETE", path, nil)
		if gone.Type != "webhook_endpoint_deleted" || b.do(b.key, "GET", path, nil).status != 404 {
			t.Errorf("deleted: %+v", gone)
		}
	})
}

// TestWebhookOfWhatFailed: what is rolled back was never told.
func TestWebhookOfWhatFailed(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		endpoint := b.webhook("https://127.0.0.1:1/", api.WebhookEvents...)
		env := b.environment()
		taken := b.environment()
		if a := b.do(b.key, "POST", "/v1/environments/"+env.ID, object{"name": taken.Name, "description": "x"}); a.status != 409 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if list := b.deliveries(endpoint.ID, "?event_type=environment.updated"); len(list) != 0 {
			t.Errorf("told of %+v", list)
		}
		raw, err := json.Marshal(b.deliveries(endpoint.ID, "?event_type=environment.created"))
		must(t, err)
		if n := strings.Count(string(raw), `"webhook_delivery"`); n != 2 {
			t.Errorf("told of %d environments, want 2", n)
		}
	})
}
