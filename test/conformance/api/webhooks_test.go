package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/test/run"
)

// received keeps deliveries until they can be read with the secret they are
// signed with.
type received struct {
	mu  sync.Mutex
	all []delivery // guarded by mu
}

type delivery struct {
	header http.Header
	body   []byte
}

func (r *received) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, delivery{q.Header.Clone(), body})
}

func (r *received) sofar() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// told are the types of events that the endpoint asks for. The SDK names those of
// organisations only, and passes on any other.
var told = []string{"agent.created", "session.created", "session.status_run_started", "session.status_idled"}

func TestWebhooks(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		webhooks := s.SDK.Beta.Organization.Webhooks
		hooks := &received{}
		listener := httptest.NewServer(hooks)
		defer listener.Close()
		made, err := webhooks.New(t.Context(), anthropic.BetaOrganizationWebhookNewParams{URL: listener.URL + "/hooks", EnabledEvents: told, Name: anthropic.String("ops")})
		must(t, err)
		found, err := webhooks.Get(t.Context(), made.ID, anthropic.BetaOrganizationWebhookGetParams{})
		must(t, err)
		if found.Name != "ops" || found.State != anthropic.BetaOrganizationWebhookEndpointStateEnabled || found.URL != listener.URL+"/hooks" {
			t.Errorf("found %+v", found)
		}
		fresh, err := webhooks.RegenerateSigningSecret(t.Context(), made.ID, anthropic.BetaOrganizationWebhookRegenerateSigningSecretParams{})
		must(t, err)
		agent, err := s.SDK.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{Name: "told", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"}})
		must(t, err)
		run.Eventually(t, "the agent is told of", func() bool { return len(hooks.sofar()) == 1 })
		got := hooks.sofar()[0]
		reader := anthropic.NewClient(option.WithWebhookKey(fresh.SigningSecret), option.WithAPIKey("unused"))
		event, err := reader.Beta.Webhooks.Unwrap(got.body, got.header)
		must(t, err)
		if about, ok := event.Data.AsAny().(anthropic.BetaWebhookAgentCreatedEventData); !ok || about.ID != agent.ID {
			t.Errorf("told %s", got.body)
		}
		old := anthropic.NewClient(option.WithWebhookKey(made.SigningSecret), option.WithAPIKey("unused"))
		if _, err := old.Beta.Webhooks.Unwrap(got.body, got.header); err == nil {
			t.Error("the secret that was replaced is still good")
		}
		changed, err := webhooks.Update(t.Context(), made.ID, anthropic.BetaOrganizationWebhookUpdateParams{State: anthropic.BetaOrganizationWebhookUpdateParamsStateDisabled})
		must(t, err)
		if changed.State != anthropic.BetaOrganizationWebhookEndpointStateDisabled || changed.DisabledReason != "" {
			t.Errorf("changed to %+v", changed)
		}
		list := webhooks.ListAutoPaging(t.Context(), anthropic.BetaOrganizationWebhookListParams{Limit: anthropic.Int(1)})
		if !list.Next() || list.Current().ID != made.ID || list.Next() || list.Err() != nil {
			t.Errorf("listed otherwise: %v", list.Err())
		}
		gone, err := webhooks.Delete(t.Context(), made.ID, anthropic.BetaOrganizationWebhookDeleteParams{})
		must(t, err)
		if gone.ID != made.ID {
			t.Errorf("deleted %s", gone.ID)
		}
		s.typeScript("webhooks.mjs")
	}, "--allow-private-outbound", "127.0.0.1")
}
