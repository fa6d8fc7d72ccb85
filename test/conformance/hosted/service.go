// Package hosted is a strict fake of the hosted service as a worker meets it:
// the work queue, the lease, one session's events and skills. It is written
// from the wire notes alone and shares no code with the server of this
// repository, so that the two cannot agree on a mistake.
//
// A test scripts sessions ([Service.NewSession], [Session.Call], …), offers
// them as work ([Service.Offer]), breaks things on purpose ([Service.Fail],
// [Item.Lose], [Session.CutStreams], …) and runs a worker against
// [Service.URL]. The fake answers as the hosted service does and notes every
// [Obligation] the worker breaks; with [Start] each fails the test.
//
// It imports nothing of the house.
package hosted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a worker is configured with to serve the fake.
const (
	EnvironmentID  = "env_hosted"
	EnvironmentKey = "fake-environment-key-51c7f0"
	// TokenPrefix begins every sessions token.
	TokenPrefix = "fake-sessions-token"
)

// patience bounds every wait for something a worker has to do.
const patience = 20 * time.Second

// Options shape a fake.
type Options struct {
	// TTL is the time of a lease, in whole seconds. Default 3 s, which gives a
	// beat every 1.5 s.
	TTL time.Duration
	// MaxIdle is the idle time the worker was configured with; leaving a
	// session earlier is a violation. Zero leaves the time unchecked.
	MaxIdle time.Duration
	// PageSize caps a page of events, so that every listing has several.
	// Default 2.
	PageSize int
}

// Service is the fake. Its methods may be called from any goroutine.
type Service struct {
	options Options
	http    *httptest.Server
	closing chan struct{} // closed by Close; ends streams and long polls
	started time.Time

	mu         sync.Mutex
	closed     bool                 // guarded by mu
	changed    chan struct{}        // guarded by mu: closed and replaced at every change
	serial     int                  // guarded by mu: last number used in an id
	clock      time.Time            // guarded by mu: last processed_at given out
	items      []*Item              // guarded by mu: in the order they were offered
	sessions   map[string]*Session  // guarded by mu
	pollers    map[string]*poller   // guarded by mu: by Anthropic-Worker-ID
	faults     map[Endpoint][]Fault // guarded by mu: next first
	trace      []*exchange          // guarded by mu: every request, in order of arrival
	answered   map[Endpoint]int     // guarded by mu: requests answered without a fault
	violations []Violation          // guarded by mu
	pardoned   map[Obligation]bool  // guarded by mu
}

// New starts a fake on a free loopback port. The caller closes it and looks at
// [Service.Violations]; see [Start] for tests.
func New(options Options) *Service {
	if options.TTL == 0 {
		options.TTL = 3 * time.Second
	}
	if options.PageSize == 0 {
		options.PageSize = 2
	}
	s := &Service{
		options:  options,
		closing:  make(chan struct{}),
		started:  time.Now(),
		changed:  make(chan struct{}),
		clock:    time.Now().UTC().Truncate(time.Microsecond),
		sessions: map[string]*Session{},
		pollers:  map[string]*poller{},
		faults:   map[Endpoint][]Fault{},
		answered: map[Endpoint]int{},
		pardoned: map[Obligation]bool{},
	}
	s.http = httptest.NewServer(s.routes())
	return s
}

// Start is [New] for a test: when the test ends it closes the fake and fails
// the test for every violation, with the requests that led there.
func Start(t testing.TB, options Options) *Service {
	t.Helper()
	s := New(options)
	t.Cleanup(func() {
		s.Close()
		violations := s.Violations()
		for _, v := range violations {
			t.Errorf("hosted service: %s", v)
		}
		if len(violations) > 0 || t.Failed() {
			t.Logf("the requests seen:\n%s", s.Trace())
		}
	})
	return s
}

// Close ends the service. Stop the worker first: what it still owes when the
// service closes are violations.
func (s *Service) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.checkFarewell()
	s.mu.Unlock()
	close(s.closing)
	s.http.CloseClientConnections()
	s.http.Close()
}

// URL is the base URL of the service.
func (s *Service) URL() string { return s.http.URL }

// Trace is every request so far, one a line.
func (s *Service) Trace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, x := range s.trace {
		b.WriteString("  " + x.String() + "\n")
	}
	return b.String()
}

// AwaitAnswered waits until the service has answered n requests of an
// endpoint, not counting those that met a fault.
func (s *Service) AwaitAnswered(t testing.TB, endpoint Endpoint, n int) {
	t.Helper()
	s.await(t, fmt.Sprintf("%d answered calls of %s", n, endpoint), func() bool { return s.answered[endpoint] >= n })
}

// AwaitFaults waits until all faults of an endpoint have been met.
func (s *Service) AwaitFaults(t testing.TB, endpoint Endpoint) {
	t.Helper()
	s.await(t, fmt.Sprintf("the faults of %s", endpoint), func() bool { return len(s.faults[endpoint]) == 0 })
}

// Answered is how many requests of an endpoint were answered without a fault.
func (s *Service) Answered(endpoint Endpoint) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered[endpoint]
}

// await waits until done, which is called with s.mu held, or fails the test.
func (s *Service) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// change wakes everyone who waits for a change. Callers hold s.mu.
func (s *Service) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// newID makes an id. Callers hold s.mu.
func (s *Service) newID(prefix string) string {
	s.serial++
	return fmt.Sprintf("%s_%04d", prefix, s.serial)
}

// now is the next processed_at: later than every one before, to the
// microsecond. Callers hold s.mu.
func (s *Service) now() time.Time {
	now := time.Now().UTC().Truncate(time.Microsecond)
	if !now.After(s.clock) {
		now = s.clock.Add(time.Microsecond)
	}
	s.clock = now
	return now
}

// exchange is one line of the trace. Its fields are guarded by Service.mu.
type exchange struct {
	at         time.Duration // since the service started
	method     string
	url        string
	credential string // what kind, never the value
	body       string
	status     int // zero while unanswered
}

func (x *exchange) String() string {
	line := fmt.Sprintf("%7.3fs %-4s %s [%s]", x.at.Seconds(), x.method, x.url, x.credential)
	if x.body != "" {
		line += " " + x.body
	}
	if x.status != 0 {
		line += fmt.Sprintf(" -> %d", x.status)
	}
	return line
}

// failure is an error answer in the service's envelope.
func failure(status int, kind, message string, details map[string]any) reply {
	body := map[string]any{"type": kind, "message": message}
	if details != nil {
		body["details"] = details
	}
	return reply{status: status, body: map[string]any{"type": "error", "error": body, "request_id": "req_fake"}}
}

func refusal(message string) reply {
	return failure(http.StatusBadRequest, "invalid_request_error", message, nil)
}

// write sends an answer that is not a stream.
func (r reply) write(w http.ResponseWriter) {
	w.Header().Set("Request-Id", "req_fake")
	for key, value := range r.header {
		w.Header().Set(key, value)
	}
	switch {
	case r.raw != nil:
		w.WriteHeader(r.status)
		_, _ = w.Write(r.raw) // the worker went away: nothing to tell it
	case r.status == http.StatusNoContent:
		w.WriteHeader(r.status)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(r.status)
		_ = json.NewEncoder(w).Encode(r.body)
	}
}
