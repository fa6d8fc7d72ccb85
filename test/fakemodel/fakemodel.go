// Package fakemodel is a Messages API server for tests: it answers over real
// HTTP with the turns a test scripted, streams them event by event as the real
// service does, and refuses what the real service refuses.
//
// A test starts a [Server], queues turns with [Server.Play] or computes them
// with [Server.Respond], and points the code under test at [Server.URL] with
// the key [Key]. It can hold a stream at an exact point with a [Gate], cut it,
// stall it, break it, or answer with any error, so nothing has to be timed.
// Every request for a message is kept ([Server.Requests], [Server.Next]). It also
// lists its [Models], and counts tokens.
//
// Being strict is half of its use: a request with an unanswered tool call, an
// empty text block, an altered thinking block or a misspelt field gets the 400
// the real service would send, and with [Start] also fails the test, so that a
// client that recovers from the refusal does not hide it.
//
// It imports nothing of the house and may be used from any test.
package fakemodel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Key is the one credential a server accepts, as x-api-key or as a bearer token.
const Key = "fake-model-key-3f9c1d7a5be0"

// maxBody is the largest request body in bytes, as on the real service.
const maxBody = 32 << 20

// Server is a Messages API server that plays scripted turns. Its methods may be
// called from any goroutine.
type Server struct {
	http    *httptest.Server
	closing chan struct{} // closed by Close; cuts every held stream

	mu       sync.Mutex
	turns    []Turn                // guarded by mu: not yet played, oldest first
	respond  func(*Request) Turn   // guarded by mu: asked when turns is empty
	requests []*Request            // guarded by mu: accepted, in order of arrival
	taken    int                   // guarded by mu: how many of requests Next has handed out
	arrived  chan struct{}         // guarded by mu: closed and replaced when requests grows
	problems []string              // guarded by mu: what the server had to refuse
	cache    map[[32]byte]struct{} // guarded by mu: prompt prefixes written to the cache
	serial   int                   // guarded by mu: last number used in an id
	closed   bool                  // guarded by mu
}

// New starts a server on a free port of the loopback interface. The caller
// closes it. Unlike [Start], it leaves looking at [Server.Problems] to the caller.
func New() *Server {
	s := &Server{
		closing: make(chan struct{}),
		arrived: make(chan struct{}),
		cache:   make(map[[32]byte]struct{}),
	}
	s.http = httptest.NewServer(s)
	return s
}

// Start starts a server that lives as long as the test. When the test ends, it
// fails the test for every request the real service would have refused and for
// every scripted turn that nobody asked for.
func Start(t testing.TB) *Server {
	t.Helper()
	s := New()
	t.Cleanup(func() {
		s.Close()
		for _, problem := range s.Problems() {
			t.Errorf("fake model: %s", problem)
		}
		if left := s.Unplayed(); left > 0 {
			t.Errorf("fake model: %d scripted turns were never asked for", left)
		}
	})
	return s
}

// URL is the base URL to configure a client with, without a trailing slash.
func (s *Server) URL() string { return s.http.URL }

// Close cuts all streams, held ones too, and stops the server. Closing twice is harmless.
func (s *Server) Close() {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		return
	}
	close(s.closing)
	s.http.CloseClientConnections()
	s.http.Close()
}

// Play queues turns. Each accepted request takes the oldest one left.
func (s *Server) Play(turns ...Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turns = append(s.turns, turns...)
}

// Respond sets the function that answers when no queued turn is left, for tests
// with many conversations at once. It is called from the goroutine of the
// request, several at a time.
func (s *Server) Respond(f func(*Request) Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.respond = f
}

// Requests returns the accepted requests so far, in order of arrival.
func (s *Server) Requests() []*Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Next returns the oldest accepted request that Next has not returned yet, and
// waits for one if need be. Its error is that of ctx.
func (s *Server) Next(ctx context.Context) (*Request, error) {
	for {
		s.mu.Lock()
		if s.taken < len(s.requests) {
			r := s.requests[s.taken]
			s.taken++
			s.mu.Unlock()
			return r, nil
		}
		arrived := s.arrived
		s.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a model request: %w", ctx.Err())
		}
	}
}

// Problems says, one line each, what was asked that the real service would have
// refused, and where the script did not fit what was asked.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// Unplayed is the number of queued turns nobody has asked for yet.
func (s *Server) Unplayed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.turns)
}

// ServeHTTP answers one API request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("request-id", s.id("req"))
	if refused := s.screen(r); refused != nil {
		s.refuse(w, r, *refused)
		return
	}
	if r.Method == http.MethodGet {
		s.serveModels(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		s.refuse(w, r, Fail(http.StatusRequestEntityTooLarge, "Request exceeds the maximum size"))
		return
	case err != nil: // the client left while sending; there is nobody to answer
		return
	}
	counting := r.URL.Path == countPath
	request, err := parse(body, counting)
	if err != nil {
		s.refuse(w, r, Fail(http.StatusBadRequest, err.Error()))
		return
	}
	if counting {
		prompt := prefixes(request)
		writeJSON(w, map[string]any{"input_tokens": prompt[len(prompt)-1].tokens})
		return
	}
	request.Header = r.Header.Clone()
	request.ended = make(chan struct{})
	defer close(request.ended)

	turn, ok := s.take(request)
	if !ok {
		s.refuse(w, r, Fail(http.StatusBadRequest, "the script has no turn for this request"))
		return
	}
	p := &player{server: s, w: w, r: r, request: request, turn: turn}
	p.play()
}

// screen checks what comes before the body, in the order the real service does.
func (s *Server) screen(r *http.Request) *Turn {
	var refused Turn
	method := methodOf(r.URL.Path)
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	key := r.Header.Get("x-api-key")
	switch {
	case method == "":
		refused = Fail(http.StatusNotFound, "Not found")
	case r.Method != method:
		refused = Fail(http.StatusMethodNotAllowed, "Method Not Allowed")
	case key == "" && !bearer:
		refused = Fail(http.StatusUnauthorized, "x-api-key header is required")
	case key != "" && key != Key:
		refused = Fail(http.StatusUnauthorized, "invalid x-api-key")
	case key == "" && token != Key:
		refused = Fail(http.StatusUnauthorized, "Invalid bearer token")
	case r.Header.Get("anthropic-version") == "":
		refused = Fail(http.StatusBadRequest, "anthropic-version: header is required")
	case method == http.MethodPost && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"):
		refused = Fail(http.StatusBadRequest, "Content-Type: must be application/json")
	default:
		return nil
	}
	return &refused
}

// take records an accepted request and picks its answer.
func (s *Server) take(request *Request) (Turn, bool) {
	s.mu.Lock()
	request.usage = s.account(request)
	s.requests = append(s.requests, request)
	close(s.arrived)
	s.arrived = make(chan struct{})
	if len(s.turns) > 0 {
		turn := s.turns[0]
		s.turns = s.turns[1:]
		s.mu.Unlock()
		return turn, true
	}
	respond := s.respond
	s.mu.Unlock()
	if respond == nil {
		return Turn{}, false
	}
	return respond(request), true
}

// refuse answers with an error nobody scripted and remembers that it had to.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, why Turn) {
	s.problem("%s %s refused with %d: %s", r.Method, r.URL.Path, why.status, why.message)
	writeError(w, why)
}

func (s *Server) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// id makes ids that are unique within the server and the same in every run.
func (s *Server) id(prefix string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return fmt.Sprintf("%s_fake%020d", prefix, s.serial)
}

// writeError sends the error envelope, or the raw page if the turn has one.
func writeError(w http.ResponseWriter, t Turn) {
	for name, value := range t.header {
		w.Header().Set(name, value)
	}
	if t.page != "" {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(t.status)
		_, _ = io.WriteString(w, t.page) // a client that left needs no page
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(t.status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // nor an envelope
		"type":       "error",
		"error":      map[string]any{"type": t.errorType, "message": t.message},
		"request_id": w.Header().Get("request-id"),
	})
}

// Gate holds a stream at one point until the test opens it. Use one gate once.
type Gate struct {
	reached, open, gone chan struct{}
	openOnce            sync.Once
}

// NewGate returns a closed gate.
func NewGate() *Gate {
	return &Gate{reached: make(chan struct{}), open: make(chan struct{}), gone: make(chan struct{})}
}

// Reached is closed when the stream has come to the gate: all before it is sent.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Open lets the stream go on. Opening twice is harmless.
func (g *Gate) Open() { g.openOnce.Do(func() { close(g.open) }) }

// Gone is closed when the client left while the stream was held.
func (g *Gate) Gone() <-chan struct{} { return g.gone }

// hold waits at the gate and reports whether the stream goes on. It does not
// return when the server closes: the connection is cut.
func (g *Gate) hold(ctx context.Context, closing <-chan struct{}) bool {
	close(g.reached)
	select {
	case <-g.open:
		return true
	case <-ctx.Done():
		close(g.gone)
		return false
	case <-closing:
		panic(http.ErrAbortHandler)
	}
}

// rest waits for d unless the client leaves or the server closes first, as hold does.
func rest(ctx context.Context, closing <-chan struct{}, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	case <-closing:
		panic(http.ErrAbortHandler)
	}
}
