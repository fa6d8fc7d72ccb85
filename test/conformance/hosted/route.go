package hosted

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Endpoint names a call of the API that a worker makes.
type Endpoint string

// The endpoints of the fake.
const (
	Poll         Endpoint = "poll"
	Ack          Endpoint = "ack"
	Beat         Endpoint = "heartbeat"
	Stop         Endpoint = "stop"
	GetSession   Endpoint = "session"
	Stream       Endpoint = "stream"
	List         Endpoint = "list"
	Send         Endpoint = "send"
	SkillVersion Endpoint = "skill version"
	SkillContent Endpoint = "skill content"
	Memories     Endpoint = "memories"
)

// Fault is an answer that goes wrong.
type Fault struct {
	// Status is the error answered; zero cuts the connection before the body.
	Status int
	// Done says that the request takes effect first: only the answer is lost.
	Done bool
}

// Fail makes the next calls of an endpoint go wrong, one fault each.
func (s *Service) Fail(endpoint Endpoint, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[endpoint] = append(s.faults[endpoint], faults...)
}

// route is how one endpoint is reached and what every call of it must look like.
type route struct {
	endpoint Endpoint
	pattern  string
	query    []string // allowed parameters, beside beta
	byKey    bool     // the environment key, not the item's credential
	json     bool     // takes a JSON body; the others take none
	noBeta   bool     // no beta header is needed
	serve    func(*Service, *request) reply
}

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	const work = "/v1/environments/{environment}/work/"
	const session = "/v1/sessions/{session}"
	const skill = "/v1/skills/{skill}/versions/{version}"
	const memories = "/v1/memory_stores/{store}/memories"
	for _, r := range []route{
		{endpoint: Poll, pattern: "GET " + work + "poll", query: []string{"block_ms", "reclaim_older_than_ms"}, byKey: true, serve: (*Service).poll},
		{endpoint: Ack, pattern: "POST " + work + "{work}/ack", byKey: true, serve: (*Service).ack},
		{endpoint: Beat, pattern: "POST " + work + "{work}/heartbeat", query: []string{"expected_last_heartbeat"}, serve: (*Service).beat},
		{endpoint: Stop, pattern: "POST " + work + "{work}/stop", json: true, serve: (*Service).stop},
		{endpoint: GetSession, pattern: "GET " + session, serve: (*Service).getSession},
		{endpoint: Stream, pattern: "GET " + session + "/events/stream", serve: (*Service).stream},
		{endpoint: List, pattern: "GET " + session + "/events", query: []string{"limit", "order", "page"}, serve: (*Service).list},
		{endpoint: Send, pattern: "POST " + session + "/events", json: true, serve: (*Service).send},
		{endpoint: SkillVersion, pattern: "GET " + skill, noBeta: true, serve: (*Service).skillVersion},
		{endpoint: SkillContent, pattern: "GET " + skill + "/content", noBeta: true, serve: (*Service).skillContent},
		{endpoint: Memories, pattern: "GET " + memories, query: []string{"view", "limit", "page"}, noBeta: true, serve: (*Service).memories},
		{endpoint: Memories, pattern: "POST " + memories, json: true, noBeta: true, serve: (*Service).memories},
		{endpoint: Memories, pattern: "GET " + memories + "/{memory}", query: []string{"view"}, noBeta: true, serve: (*Service).memories},
		{endpoint: Memories, pattern: "POST " + memories + "/{memory}", json: true, noBeta: true, serve: (*Service).memories},
		{endpoint: Memories, pattern: "DELETE " + memories + "/{memory}", query: []string{"expected_content_sha256"}, noBeta: true, serve: (*Service).memories},
	} {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { s.handle(w, req, r) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.handle(w, r, route{byKey: true, serve: (*Service).unknown})
	})
	return mux
}

// request is one call on its way through the fake.
type request struct {
	*http.Request
	route    route
	query    url.Values
	body     []byte
	bearer   string
	claim    *claim // whose call it is; nil for a poll
	exchange *exchange
}

// reply is an answer: a JSON body, raw bytes, or a stream.
type reply struct {
	status int
	header map[string]string
	body   any
	raw    []byte
	stream func(http.ResponseWriter) // writes everything itself
}

// handle takes a call through the checks all calls share, its fault if one is
// due, and its endpoint.
func (s *Service) handle(w http.ResponseWriter, r *http.Request, route route) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // a cut body fails the checks below
	s.mu.Lock()
	req := &request{Request: r, route: route, query: r.URL.Query(), body: body}
	req.bearer, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	req.exchange = &exchange{at: time.Since(s.started), method: r.Method, url: r.URL.RequestURI(), body: string(body), credential: s.kindOf(req.bearer)}
	s.trace = append(s.trace, req.exchange)
	s.checkEnvelope(req)
	answer, done := s.authorise(req)
	var fault *Fault
	if !done {
		fault = s.takeFault(route.endpoint)
		switch {
		case fault != nil && !fault.Done:
			s.noteFault(req, *fault)
			answer = fault.reply()
		default:
			answer = route.serve(s, req)
			if fault != nil {
				s.noteFault(req, *fault)
				answer = fault.reply()
			}
		}
	}
	req.exchange.status = answer.status
	if fault == nil && !done {
		s.answered[route.endpoint]++
	}
	s.change()
	s.mu.Unlock()

	switch {
	case fault != nil && fault.Status == 0:
		// After the first byte of an answer no transport repeats the request unasked.
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		_ = http.NewResponseController(w).Flush() // the worker may be gone already
		panic(http.ErrAbortHandler)
	case answer.stream != nil:
		answer.stream(w)
	default:
		answer.write(w)
	}
}

// checkEnvelope checks what holds for every call, whatever it asks.
func (s *Service) checkEnvelope(req *request) {
	if req.Header.Get("X-Api-Key") != "" {
		s.violate(req, NoAPIKey, "x-api-key was sent")
	}
	if req.route.endpoint == "" {
		return
	}
	for key := range req.query {
		if key != "beta" && !slices.Contains(req.route.query, key) {
			s.violate(req, KnownCalls, "the query parameter %q is not one the official worker sends", key)
		}
	}
	if req.Header.Get("Anthropic-Version") == "" {
		s.violate(req, Headers, "anthropic-version is missing")
	}
	const beta = "managed-agents-2026-04-01"
	if !req.route.noBeta && !strings.Contains(strings.Join(req.Header.Values("Anthropic-Beta"), ","), beta) {
		s.violate(req, Headers, "anthropic-beta lacks %s", beta)
	}
	if id := req.Header.Get("Anthropic-Worker-ID"); (id != "") != (req.route.endpoint == Poll) {
		s.violate(req, WorkerID, "Anthropic-Worker-ID is %q on a call of %s", id, req.route.endpoint)
	}
	content := req.Header.Get("Content-Type")
	if req.route.json && !strings.HasPrefix(content, "application/json") {
		s.violate(req, Bodies, "Content-Type is %q, want application/json", content)
	}
	if !req.route.json && (len(req.body) > 0 || content != "") {
		s.violate(req, Bodies, "%s takes no body, got %d bytes of %q", req.route.endpoint, len(req.body), content)
	}
}

// kindOf says what kind of credential a bearer token is.
func (s *Service) kindOf(bearer string) string {
	switch {
	case bearer == "":
		return "no credential"
	case bearer == EnvironmentKey:
		return "environment key"
	case s.claimOf(bearer) != nil:
		return "sessions token of " + s.claimOf(bearer).item.ID
	default:
		return "unknown credential"
	}
}

// authorise finds whose call it is and refuses what the service would refuse.
func (s *Service) authorise(req *request) (refused reply, done bool) {
	if environment := req.PathValue("environment"); environment != "" && environment != EnvironmentID {
		s.violate(req, KnownCalls, "environment %q is not the one the item came from", environment)
		return failure(http.StatusNotFound, "not_found_error", "no such environment", nil), true
	}
	unauthorised := failure(http.StatusUnauthorized, "authentication_error", "the credential is not valid here", nil)
	if item := s.unacknowledged(req); item != nil {
		req.claim = item.claim
	}
	if req.route.byKey || req.claim != nil {
		if req.route.endpoint != "" && req.bearer != EnvironmentKey {
			s.violate(req, KeyPolls, "%s was called with %s", req.route.endpoint, req.exchange.credential)
			return unauthorised, true
		}
		return reply{}, false
	}
	req.claim = s.claimOf(req.bearer)
	if req.bearer == EnvironmentKey {
		req.claim = s.keyedClaim(req)
	}
	if req.claim == nil {
		s.violate(req, TokenServes, "%s was called with %s", req.route.endpoint, req.exchange.credential)
		return unauthorised, true
	}
	if !req.claim.covers(req) {
		s.violate(req, TokenServes, "%s was called with the %s, which is another item's", req.route.endpoint, req.exchange.credential)
		return failure(http.StatusForbidden, "permission_error", "the credential is another item's", nil), true
	}
	return s.gate(req)
}

// unknown answers every call there is no endpoint for.
func (s *Service) unknown(req *request) reply {
	s.violate(req, KnownCalls, "the official worker makes no such call")
	return failure(http.StatusNotFound, "not_found_error", "no such endpoint", nil)
}

// takeFault takes the fault due for a call of an endpoint, if any.
func (s *Service) takeFault(endpoint Endpoint) *Fault {
	due := s.faults[endpoint]
	if len(due) == 0 {
		return nil
	}
	s.faults[endpoint] = due[1:]
	return &due[0]
}

func (f Fault) reply() reply {
	if f.Status == 0 {
		return reply{}
	}
	return failure(f.Status, "api_error", "a fault of the test", nil)
}

// fatal tells whether repeating the request cannot help.
func (f Fault) fatal() bool {
	return f.Status >= 400 && f.Status < 500 &&
		f.Status != http.StatusRequestTimeout && f.Status != http.StatusConflict && f.Status != http.StatusTooManyRequests
}

// noteFault keeps what a fault means for the obligations: what failed may be
// repeated, and what failed for good ends what it belonged to.
func (s *Service) noteFault(req *request, fault Fault) {
	c := req.claim
	switch req.route.endpoint {
	case Poll:
		s.notePollFault(req, fault)
	case Ack:
		if item := s.item(req.PathValue("work")); item != nil && item.claim != nil {
			item.claim.ackFailed = true
		}
	case Beat:
		c.beatFailed = true
		if fault.fatal() && c.mayStop == "" {
			c.phase, c.mayStop = stopping, "its heartbeat was refused"
		}
	case GetSession:
		c.sessionRead = false
		c.mayStop = "its session could not be read"
	case Stream:
		if fault.fatal() {
			c.mayStop = "its stream was refused"
		}
	case List:
		c.listFailed, c.unlisted, c.nextPage = true, false, ""
	case Send:
		c.noteSendFault(req, fault)
	case Stop:
		c.stopFailed = true
		if fault.Status == http.StatusConflict {
			c.phase = stopped
		}
	}
}

// sameJSON tells whether two documents are the same but for white space.
func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return compact(&x, a) && compact(&y, b) && bytes.Equal(x.Bytes(), y.Bytes())
}
