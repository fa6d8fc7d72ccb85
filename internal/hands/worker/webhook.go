package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"hearth/api"
)

// Webhook has a worker poll when a webhook says that there may be work, instead
// of always. Deliveries are checked as Standard Webhooks.
type Webhook struct {
	address string
	every   time.Duration
	signers []*standardwebhooks.Webhook
}

// NewWebhook makes a webhook that listens on an address. A delivery signed with
// any of the secrets is good, so that they can be replaced one by one. The
// worker also polls every so often, lest a webhook that was lost be missed.
func NewWebhook(address string, secrets []string, every time.Duration) (*Webhook, error) {
	h := &Webhook{address: address, every: every}
	for i, secret := range secrets {
		signer, err := standardwebhooks.NewWebhook(secret)
		if err != nil || secret == "" || secret == secretPrefix {
			return nil, fmt.Errorf("webhook secret %d of %d is not %s and base64", i+1, len(secrets), secretPrefix)
		}
		h.signers = append(h.signers, signer)
	}
	if len(h.signers) == 0 {
		return nil, errors.New("there is no webhook secret")
	}
	if every <= 0 {
		return nil, errors.New("the time between two polls must be more than nothing")
	}
	return h, nil
}

const secretPrefix = "whsec_"

// bell is what wakes a worker that does not poll always.
type bell chan struct{}

// ring wakes the worker, now or when it has finished what it is at. A nil bell
// wakes nobody.
func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default: // it has been rung and not been heard yet
	}
}

// Where webhooks are delivered to, and where a load balancer looks.
const (
	deliveryPath = "/webhook"
	healthPath   = "/healthz"
)

// listen takes deliveries, if that is wanted, until what it returns is called.
// The bell rings with each that may mean work.
func (w *Worker) listen() (b bell, stop func(), err error) {
	if w.Webhook == nil {
		return nil, func() {}, nil
	}
	listener, err := net.Listen("tcp", w.Webhook.address)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	b = make(bell, 1)
	d := &deliveries{signers: w.Webhook.signers, bell: b, draining: w.draining, status: w.Status, log: w.Log}
	server := &http.Server{
		Handler: d.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(w.Log.Handler(), slog.LevelDebug),
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			w.Log.Error("no longer listening for webhooks; polling now and then only", "error", err)
		}
	})
	w.Log.Info("listening for webhooks", "address", listener.Addr().String(), "path", deliveryPath, "polling_every", w.Webhook.every)
	return b, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close() // whoever is still talking has had time
		}
		serving.Wait()
	}, nil
}

// deliveries takes in webhooks.
type deliveries struct {
	signers  []*standardwebhooks.Webhook
	bell     bell
	draining <-chan struct{}
	status   func() Status
	log      *slog.Logger

	mu            sync.Mutex
	recent, older map[string]bool // ids of good deliveries; guarded by mu
	turned        time.Time       // when recent was begun; guarded by mu
}

func (d *deliveries) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc(deliveryPath, func(w http.ResponseWriter, r *http.Request) {
		outcome, err := d.take(w, r)
		if err != nil {
			d.log.Warn("refused a webhook", "id", id(r), "status", err.Status, "reason", err.Message)
			refuse(w, err)
			return
		}
		d.log.Debug("took a webhook", "id", id(r), "outcome", outcome)
		answer(w, http.StatusOK, map[string]string{"outcome": outcome})
	})
	routes.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) {
		status := "serving"
		if d.stopping() {
			status = "draining"
		}
		answer(w, http.StatusOK, map[string]any{"status": status, "sessions": len(d.status().Sessions)})
	})
	routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == healthPath {
			w.Header().Set("Allow", http.MethodGet)
			refuse(w, &api.Error{Status: http.StatusMethodNotAllowed, Type: api.ErrInvalidRequest, Message: "ask with GET"})
			return
		}
		refuse(w, &api.Error{Status: http.StatusNotFound, Type: api.ErrNotFound, Message: "webhooks are delivered to " + deliveryPath})
	})
	return routes
}

// maxDelivery bounds the body of a delivery, in bytes; webhooks are small.
const maxDelivery = 1 << 20

// retryAfter is when a sender should come again to a worker that is ending, in
// seconds. Another may have taken its place.
const retryAfter = "10"

// Outcomes of good deliveries.
const (
	woken     = "woken"     // the worker polls
	duplicate = "duplicate" // it has done so for this delivery
	ignored   = "ignored"   // it means no work
)

// take checks a delivery and acts on it.
func (d *deliveries) take(w http.ResponseWriter, r *http.Request) (outcome string, refusal *api.Error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return "", &api.Error{Status: http.StatusMethodNotAllowed, Type: api.ErrInvalidRequest, Message: "webhooks are delivered with POST"}
	}
	if d.stopping() {
		w.Header().Set("Retry-After", retryAfter)
		return "", &api.Error{Status: http.StatusServiceUnavailable, Type: api.ErrOverloaded, Message: "the worker is shutting down; deliver again later"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDelivery))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return "", &api.Error{Status: http.StatusRequestEntityTooLarge, Type: api.ErrTooLarge, Message: fmt.Sprintf("the body has more than %d bytes", maxDelivery)}
	case err != nil:
		return "", api.BadRequest("the body could not be read to its end")
	}
	if refusal := d.verify(body, r.Header); refusal != nil {
		return "", refusal
	}
	var event struct {
		Type string
		Data struct{ Type string }
	}
	if err := json.Unmarshal(body, &event); err != nil || event.Type != "event" || event.Data.Type == "" {
		return "", api.BadRequest("the body is not an event: want JSON with type \"event\" and data.type")
	}
	switch {
	case d.seen(id(r)):
		return duplicate, nil
	case !slices.Contains(meansWork, event.Data.Type):
		return ignored, nil
	}
	d.bell.ring()
	return woken, nil
}

func id(r *http.Request) string { return r.Header.Get(standardwebhooks.HeaderWebhookID) }

// meansWork are the events after which a session may wait for a worker.
var meansWork = []string{
	"session.status_run_started", "session.status_scheduled", "session.status_rescheduled",
	"session.pending", "session.running", "session.requires_action",
}

// verify checks a delivery's signature and time.
func (d *deliveries) verify(body []byte, header http.Header) *api.Error {
	var err error
	for _, signer := range d.signers {
		if err = signer.Verify(body, header); err == nil {
			return nil
		}
	}
	switch {
	case errors.Is(err, standardwebhooks.ErrRequiredHeaders):
		return api.BadRequest("not a signed webhook: it lacks %s, %s or %s",
			standardwebhooks.HeaderWebhookID, standardwebhooks.HeaderWebhookTimestamp, standardwebhooks.HeaderWebhookSignature)
	case errors.Is(err, standardwebhooks.ErrInvalidHeaders):
		return api.BadRequest("%s is not a time in seconds", standardwebhooks.HeaderWebhookTimestamp)
	case errors.Is(err, standardwebhooks.ErrMessageTooOld):
		return api.Unauthenticated("the webhook was signed more than five minutes ago; deliver it signed anew, and check both clocks")
	case errors.Is(err, standardwebhooks.ErrMessageTooNew):
		return api.Unauthenticated("the webhook was signed more than five minutes in the future; check both clocks")
	}
	return api.Unauthenticated("the webhook is signed with none of the secrets of this worker")
}

func (d *deliveries) stopping() bool {
	select {
	case <-d.draining:
		return true
	default:
		return false
	}
}

// remembered is for how long a signature can be good: as long before the time it
// carries as after it.
const remembered = 10 * time.Minute

// seen tells whether a good delivery has come before, and notes it. Ids are
// forgotten, all that are old enough at once, when none of them could be good.
func (d *deliveries) seen(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.Sub(d.turned) > remembered {
		if now.Sub(d.turned) > 2*remembered {
			d.recent = nil
		}
		d.older, d.recent, d.turned = d.recent, map[string]bool{}, now
	}
	if d.recent[id] || d.older[id] {
		return true
	}
	d.recent[id] = true
	return false
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked has gone
}

func refuse(w http.ResponseWriter, err *api.Error) {
	answer(w, err.Status, map[string]any{"type": "error", "error": err})
}
