package hosted

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// pollPause is the least time between a failed poll and the next: the first
// retry inside the official client comes after 375 ms or more.
const pollPause = 250 * time.Millisecond

// poller is what the fake knows of one polling worker. Guarded by Service.mu.
type poller struct {
	failedAt time.Time // of the last poll, zero when it did not fail
	fatal    bool      // a poll met a 4xx that ends polling
	unacked  *claim    // claimed and not yet acknowledged
	killed   bool      // by the test; a poll of its that still hangs claims nothing
}

// Item is a work item of the queue.
type Item struct {
	ID      string
	service *Service
	session *Session // nil for a healthcheck
	secret  func(token string) any
	queued  bool   // guarded by Service.mu
	claim   *claim // guarded by Service.mu: the latest, nil before the first
}

// phase is where a claim stands.
type phase int

const (
	claimed  phase = iota // polled, not acknowledged
	held                  // acknowledged
	stopping              // told to stop by a heartbeat
	lost                  // told so by a 412
	stopped               // stopped by the worker
	gone                  // its worker was killed by the test
)

// claim is one worker's hold on an item, and what it has done about it so far.
// Guarded by Service.mu.
type claim struct {
	item   *Item
	token  string // empty when the secret holds none
	worker *poller
	phase  phase

	ackFailed bool

	beats      int
	last       string // last_heartbeat of the latest answer
	before     string // and of the one before
	beatAt     time.Time
	beatFailed bool // the latest beat met a fault
	pacedFrom  time.Time
	paced      int // beats since pacedFrom
	ending     leaseEnd

	sessionRead bool
	skills      map[string]bool // concrete version ids resolved

	unlisted   bool   // a stream was opened that no listing followed yet
	nextPage   string // cursor of the page the running listing still owes
	listQuery  string // query of the running listing
	listFailed bool

	stopFailed bool
	mayStop    string // why it may leave a session that is not idle; empty when it may not
}

// leaseEnd is how a test has a lease end at the next heartbeat.
type leaseEnd int

const (
	endNot leaseEnd = iota
	endLost
	endStopping
	endNotExtended
)

// Offer queues work for a session.
func (s *Service) Offer(session *Session) *Item {
	return s.offer(session, func(token string) any {
		return map[string]any{"sessions_token": token, "api_base_url": "https://elsewhere.invalid", "ingress_token": "unused"}
	})
}

// OfferUnsealed queues work whose secret holds no sessions token, so that the
// environment key serves it.
func (s *Service) OfferUnsealed(session *Session) *Item {
	return s.offer(session, nil)
}

// OfferHealthcheck queues an item that is no session's.
func (s *Service) OfferHealthcheck() *Item {
	return s.offer(nil, func(token string) any { return map[string]any{"sessions_token": token} })
}

func (s *Service) offer(session *Session, secret func(string) any) *Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	item := &Item{ID: s.newID("work"), service: s, session: session, secret: secret, queued: true}
	s.items = append(s.items, item)
	s.change()
	return item
}

// Claim takes a queued item for a worker that does not poll: it is claimed,
// acknowledged and, when beaten, its lease already begun. It returns the
// secret and the last heartbeat a worker process would be started with.
func (item *Item) Claim(beaten bool) (secret, lastHeartbeat string) {
	s := item.service
	s.mu.Lock()
	defer s.mu.Unlock()
	item.queued = false
	work := s.newClaim(item, &poller{})
	item.claim.phase, item.claim.worker.unacked = held, nil
	if beaten {
		item.claim.beats, item.claim.beatAt = 1, time.Now().Add(-s.options.TTL/2) // the next is due
		item.claim.last = s.heartbeatName(item.claim)
	}
	s.change()
	secret, _ = work["secret"].(string)
	return secret, item.claim.last
}

// Lose has the next heartbeat meet a 412, as after a takeover.
func (item *Item) Lose() { item.end(endLost) }

// RequestStop has the next heartbeat say "stopping".
func (item *Item) RequestStop() { item.end(endStopping) }

// DenyExtension has the next heartbeat answer lease_extended false.
func (item *Item) DenyExtension() { item.end(endNotExtended) }

func (item *Item) end(how leaseEnd) {
	s := item.service
	s.mu.Lock()
	defer s.mu.Unlock()
	item.claim.ending = how
}

// AllowStop lets the worker leave although the session still waits, because
// of something the test did to it.
func (item *Item) AllowStop(why string) {
	s := item.service
	s.mu.Lock()
	defer s.mu.Unlock()
	item.claim.mayStop = why
}

// HolderKilled says that the test killed the worker that held the item: what
// it still owed is forgiven and the item is queued again, as after a lapse.
func (item *Item) HolderKilled() {
	s := item.service
	s.mu.Lock()
	defer s.mu.Unlock()
	item.claim.phase, item.queued, item.claim.worker.killed = gone, true, true
	s.change()
}

// AwaitHeld waits until a worker has acknowledged the item.
func (item *Item) AwaitHeld(t testing.TB) {
	t.Helper()
	item.service.await(t, item.ID+" to be acknowledged", func() bool { return item.claim != nil && item.claim.phase != claimed })
}

// Claimed tells whether a worker has the item, or had it.
func (item *Item) Claimed() bool {
	s := item.service
	s.mu.Lock()
	defer s.mu.Unlock()
	return item.claim != nil
}

// AwaitBeats waits until the item's present claim has had n heartbeats.
func (item *Item) AwaitBeats(t testing.TB, n int) {
	t.Helper()
	item.service.await(t, fmt.Sprintf("heartbeat %d of %s", n, item.ID), func() bool { return item.claim != nil && item.claim.beats >= n })
}

// AwaitStopped waits until the worker has stopped the item.
func (item *Item) AwaitStopped(t testing.TB) {
	t.Helper()
	item.service.await(t, item.ID+" to be stopped", func() bool { return item.claim != nil && item.claim.phase == stopped })
}

// AwaitLost waits until the worker was told that its lease is lost.
func (item *Item) AwaitLost(t testing.TB) {
	t.Helper()
	item.service.await(t, item.ID+" to be lost", func() bool { return item.claim != nil && item.claim.phase == lost })
}

// poll answers GET work/poll: it waits for work as long as it is told to.
func (s *Service) poll(req *request) reply {
	block := time.Duration(0)
	if req.query.Has("block_ms") {
		ms, err := strconv.Atoi(req.query.Get("block_ms"))
		if err != nil || ms < 1 || ms > 999 {
			s.violate(req, PollBlock, "block_ms is %q", req.query.Get("block_ms"))
			return refusal("block_ms: want 1 to 999")
		}
		block = time.Duration(ms) * time.Millisecond
	}
	p := s.poller(req)
	if p.fatal {
		s.violate(req, PollFatal, "the worker polls on")
	}
	if !p.failedAt.IsZero() && time.Since(p.failedAt) < pollPause {
		s.violate(req, PollBackoff, "the next poll came %s after one that failed", time.Since(p.failedAt))
	}
	p.failedAt = time.Time{}
	if p.unacked != nil && !p.unacked.ackFailed {
		s.violate(req, AckAtOnce, "%s was claimed and is not acknowledged", p.unacked.item.ID)
	}
	p.unacked = nil
	return reply{status: http.StatusOK, body: s.next(req, p, block)}
}

// next claims the oldest queued item, waiting up to block for one. It gives
// s.mu up while it waits.
func (s *Service) next(req *request, p *poller, block time.Duration) map[string]any {
	timer := time.NewTimer(block)
	defer timer.Stop()
	for !p.killed {
		if i := slices.IndexFunc(s.items, func(item *Item) bool { return item.queued }); i >= 0 {
			s.items[i].queued = false
			return s.newClaim(s.items[i], p)
		}
		changed := s.changed
		s.mu.Unlock()
		var over bool
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-req.Context().Done():
			over = true
		case <-s.closing:
			over = true
		}
		s.mu.Lock()
		if over {
			break
		}
	}
	return nil
}

// newClaim makes the claim and the work object that tells of it.
func (s *Service) newClaim(item *Item, p *poller) map[string]any {
	c := &claim{item: item, worker: p, skills: map[string]bool{}}
	item.claim, p.unacked = c, c
	data := map[string]any{"type": "healthcheck", "id": "healthcheck"}
	if item.session != nil {
		data = map[string]any{"type": "session", "id": item.session.ID}
		item.session.claim = c
	}
	var secret any
	if item.secret != nil {
		c.token = s.newID(TokenPrefix)
		encoded, _ := json.Marshal(item.secret(c.token))
		encoding := base64.RawURLEncoding
		if s.serial%2 == 0 {
			encoding = base64.URLEncoding // padding is optional
		}
		secret = encoding.EncodeToString(encoded)
	}
	return map[string]any{
		"id": item.ID, "type": "work", "environment_id": EnvironmentID, "data": data, "state": "queued",
		"metadata": map[string]string{}, "secret": secret, "created_at": time.Now().UTC(), "acknowledged_at": nil,
		"started_at": nil, "latest_heartbeat_at": nil, "stop_requested_at": nil, "stopped_at": nil,
		"a_field_of_next_year": true,
	}
}

func (s *Service) poller(req *request) *poller {
	id := req.Header.Get("Anthropic-Worker-ID")
	// A worker that was killed may come back under its name.
	if s.pollers[id] == nil || s.pollers[id].killed {
		s.pollers[id] = &poller{}
	}
	return s.pollers[id]
}

func (s *Service) notePollFault(req *request, fault Fault) {
	p := s.poller(req)
	p.failedAt, p.fatal = time.Now(), fault.fatal()
	if p.unacked != nil { // claimed by a poll whose answer got lost: offered again
		p.unacked.phase, p.unacked.item.queued, p.unacked = gone, true, nil
	}
}

// ack answers POST ack.
func (s *Service) ack(req *request) reply {
	item := s.item(req.PathValue("work"))
	if item == nil || item.claim == nil {
		s.violate(req, AckAtOnce, "nobody claimed it")
		return failure(http.StatusNotFound, "not_found_error", "no such work", nil)
	}
	c := item.claim
	if c.phase != claimed && !c.ackFailed {
		s.violate(req, AckOnce, "%s is acknowledged already", item.ID)
	}
	if c.phase == claimed {
		c.phase = held
	}
	c.ackFailed = false
	if c.worker.unacked == c {
		c.worker.unacked = nil
	}
	return reply{status: http.StatusOK, body: map[string]any{"id": item.ID, "type": "work", "state": "starting", "secret": nil, "environment_id": EnvironmentID}}
}

// beat answers POST heartbeat: compare and set on last_heartbeat.
func (s *Service) beat(req *request) reply {
	c, expected := req.claim, req.query.Get("expected_last_heartbeat")
	interval := min(max(s.options.TTL/2, time.Second), 30*time.Second)
	since := time.Since(c.beatAt)
	switch {
	case c.beats == 0 && expected != "NO_HEARTBEAT":
		s.violate(req, BeatFirst, "the first beat expects %q", expected)
		return s.preconditionFailed(c)
	case c.beats > 0 && expected != c.last && (!c.beatFailed || expected != c.before):
		s.violate(req, BeatEcho, "the beat expects %q, the last answer was %q", expected, c.last)
		return s.preconditionFailed(c)
	case c.beats > 0 && since > s.options.TTL && !c.beatFailed:
		s.violate(req, LeaseKept, "the lease lapsed: no beat for %s", since)
	}
	if c.beats == 0 || c.beatFailed { // what failed may be repeated soon
		c.pacedFrom, c.paced = time.Now(), 0
	}
	// One beat more than the time allows is no haste: the first may have been late.
	if elapsed := time.Since(c.pacedFrom); c.paced > int(elapsed/interval)+1 {
		s.violate(req, BeatPace, "beat %d came %s after the first, the interval is %s", c.paced+1, elapsed, interval)
	}
	c.paced++
	state, extended := "active", true
	switch c.ending {
	case endLost:
		c.phase = lost
		return s.preconditionFailed(c)
	case endStopping:
		c.phase, c.mayStop, state = stopping, "it was told to stop", "stopping"
	case endNotExtended:
		c.phase, c.mayStop, extended = stopping, "its lease was not extended", false
	}
	c.beats++
	c.before, c.last = expected, s.heartbeatName(c)
	c.beatAt, c.beatFailed = time.Now(), false
	return reply{status: http.StatusOK, body: map[string]any{
		"type": "work_heartbeat", "last_heartbeat": c.last, "lease_extended": extended,
		"state": state, "ttl_seconds": int(s.options.TTL / time.Second),
	}}
}

// heartbeatName is a last_heartbeat that survives only careful escaping.
func (s *Service) heartbeatName(c *claim) string {
	return fmt.Sprintf("%s+00:00 #%d&=%%", time.Now().UTC().Format("2006-01-02T15:04:05.000"), c.beats)
}

func (s *Service) preconditionFailed(c *claim) reply {
	return failure(http.StatusPreconditionFailed, "invalid_request_error", "another worker holds the lease", map[string]any{
		"error_code": "heartbeat_precondition_failed",
		"current_state": map[string]any{
			"last_heartbeat": nil, "lease_extended": false, "state": "queued", "ttl_seconds": 120, "error_visibility": "internal",
		},
	})
}

// stop answers POST stop.
func (s *Service) stop(req *request) reply {
	if !sameJSON(req.body, []byte(`{"force":true}`)) {
		s.violate(req, ForceStop, "the body is %s", req.body)
		return refusal("force: want true")
	}
	c := req.claim
	switch {
	case c.ackFailed: // an item that could not be acknowledged goes back
	case c.beatFailed && time.Since(c.beatAt) > s.options.TTL:
		s.violate(req, LostIsLost, "no heartbeat got through for %s", time.Since(c.beatAt))
	case c.phase == held && c.mayStop == "" && c.item.session != nil:
		s.checkLeaving(req)
	}
	c.phase, c.stopFailed = stopped, false
	return reply{status: http.StatusNoContent}
}

// checkLeaving checks that a worker which leaves of its own accord leaves a
// session that needs nothing.
func (s *Service) checkLeaving(req *request) {
	c, session := req.claim, req.claim.item.session
	if c.beats == 0 {
		s.violate(req, LeaseKept, "%s was served without a heartbeat", c.item.ID)
	}
	if session.ended {
		return
	}
	if c.nextPage != "" {
		s.violate(req, ListToTheEnd, "the listing stopped before page %q", c.nextPage)
	}
	if c.unlisted {
		s.violate(req, StreamThenList, "a stream was opened that no listing followed")
	}
	if owed := session.owed(); len(owed) > 0 {
		s.violate(req, IdleStop, "%v still wait", owed)
	}
	since, ended := session.idleSince()
	switch {
	case !ended:
		s.violate(req, IdleStop, "the turn has not ended")
	case time.Since(since) < s.options.MaxIdle:
		s.violate(req, IdleStop, "it left %s after the turn ended, want %s", time.Since(since), s.options.MaxIdle)
	}
}

// checkFarewell notes what is still owed when the service closes.
func (s *Service) checkFarewell() {
	for _, item := range s.items {
		c := item.claim
		if c == nil {
			continue
		}
		switch c.phase {
		case held, stopping:
			lapsed := c.beatFailed && time.Since(c.beatAt) > s.options.TTL
			if !lapsed { // a lapsed lease is presumed lost, and not stopped
				s.violate(nil, ForceStop, "%s was never stopped", item.ID)
			}
		case claimed:
			if !c.ackFailed {
				s.violate(nil, AckAtOnce, "%s was claimed and never acknowledged", item.ID)
			}
		case lost, stopped, gone:
		}
	}
}

// gate refuses a call about an item in a phase that leaves no room for it.
func (s *Service) gate(req *request) (refused reply, done bool) {
	c, endpoint := req.claim, req.route.endpoint
	conflict := failure(http.StatusConflict, "invalid_request_error", "the work is over", nil)
	conflict.header = map[string]string{"X-Should-Retry": "false"}
	switch c.phase {
	case claimed:
		s.violate(req, AckAtOnce, "%s was called before the item was acknowledged", endpoint)
	case held, gone:
	case lost, stopping:
		if endpoint == Send {
			s.violate(req, CutCallsSilent, "a result was posted once the lease had ended")
			return conflict, true
		}
		return s.gateEnded(req, conflict)
	case stopped:
		if endpoint == Stop && c.stopFailed {
			break
		}
		s.violate(req, StopLast, "%s was called after the stop", endpoint)
		return conflict, true
	}
	return reply{}, false
}

// gateEnded refuses a call about an item whose lease has ended.
func (s *Service) gateEnded(req *request, conflict reply) (refused reply, done bool) {
	endpoint := req.route.endpoint
	switch {
	case endpoint == Memories:
		// What was remembered is saved, as the official workers do it.
	case req.claim.phase == lost:
		s.violate(req, LostIsLost, "%s was called after the lease was lost", endpoint)
		return conflict, true
	case endpoint == Stream || endpoint == Beat:
		s.violate(req, StoppingStops, "%s was called on an item that is stopping", endpoint)
		return conflict, true
	}
	return reply{}, false
}

// item finds a work item.
func (s *Service) item(id string) *Item {
	for _, item := range s.items {
		if item.ID == id {
			return item
		}
	}
	return nil
}

// unacknowledged finds the item a call stops because its acknowledgement
// failed, which is done with the environment key.
func (s *Service) unacknowledged(req *request) *Item {
	if req.route.endpoint != Stop {
		return nil
	}
	item := s.item(req.PathValue("work"))
	if item == nil || item.claim == nil || !item.claim.ackFailed {
		return nil
	}
	return item
}

// claimOf finds the claim a sessions token belongs to. A token of a claim that
// another has replaced is nobody's.
func (s *Service) claimOf(token string) *claim {
	for _, item := range s.items {
		if item.claim != nil && item.claim.token != "" && item.claim.token == token {
			return item.claim
		}
	}
	return nil
}

// keyedClaim finds the claim an environment key may serve: one without a token.
func (s *Service) keyedClaim(req *request) *claim {
	for _, item := range s.items {
		if c := item.claim; c != nil && c.token == "" && c.covers(req) {
			return c
		}
	}
	return nil
}

// covers tells whether a call is about the claim's item or its session.
func (c *claim) covers(req *request) bool {
	if work := req.PathValue("work"); work != "" {
		return work == c.item.ID
	}
	if session := req.PathValue("session"); session != "" {
		return c.item.session != nil && session == c.item.session.ID
	}
	return c.item.session != nil // skills
}

func compact(to *bytes.Buffer, document []byte) bool { return json.Compact(to, document) == nil }
