package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"hearth/api"
)

func (s *site) item() string { return "/v1/environments/" + s.env.ID + "/work/" + s.work.ID }

func (s *site) keys() string { return "/v1/environments/" + s.env.ID + "/keys" }

func (s *site) stats() api.WorkStats {
	s.t.Helper()
	return ok[api.WorkStats](s.brain, s.key.Key, "GET", "/v1/environments/"+s.env.ID+"/work/stats", nil)
}

// TestKeysAreShownOnce: a secret is in the answer that made it and nowhere else.
func TestKeysAreShownOnce(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		until := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		made := b.envKey(s.env.ID, object{"name": "second", "expires_at": until})
		if made.Key == "" || made.ExpiresAt == nil || !made.ExpiresAt.Equal(until) || made.RevokedAt != nil || made.LastUsedAt != nil {
			t.Errorf("made %+v", made)
		}
		ok[api.WorkStats](b, made.Key, "GET", "/v1/environments/"+s.env.ID+"/work/stats", nil)
		list := b.do(b.key, "GET", s.keys(), nil)
		for _, k := range []api.EnvironmentKey{made, s.key} {
			if strings.Contains(string(list.body), k.Key) || !strings.Contains(string(list.body), k.ID) {
				t.Errorf("the list does not name key %s, or shows its secret", k.ID)
			}
		}
		keys := ok[api.Page[api.EnvironmentKey]](b, b.key, "GET", s.keys(), nil)
		if len(keys.Data) != 2 || keys.Data[0].ID != made.ID || keys.Data[0].LastUsedAt == nil {
			t.Errorf("listed %+v", keys.Data)
		}
		for _, past := range []string{"2020-01-01T00:00:00Z", time.Now().Add(-time.Second).Format(time.RFC3339)} {
			if a := b.do(b.key, "POST", s.keys(), object{"name": "late", "expires_at": past}); a.status != 400 || !strings.HasPrefix(a.failure().Message, "expires_at:") {
				t.Errorf("a key that expired at %s: %d %s", past, a.status, a.body)
			}
		}
	})
}

// TestRevocation takes effect on the next request, and can be repeated.
func TestRevocation(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		s.stats()
		first := ok[api.EnvironmentKey](b, b.key, "POST", s.keys()+"/"+s.key.ID+"/revoke", nil)
		again := ok[api.EnvironmentKey](b, b.key, "POST", s.keys()+"/"+s.key.ID+"/revoke", nil)
		if first.RevokedAt == nil || again.RevokedAt == nil || !first.RevokedAt.Equal(*again.RevokedAt) {
			t.Errorf("revoked at %v, then at %v", first.RevokedAt, again.RevokedAt)
		}
		if a := b.do(s.key.Key, "GET", "/v1/environments/"+s.env.ID+"/work/stats", nil); a.status != http.StatusUnauthorized {
			t.Errorf("a revoked key is answered %d", a.status)
		}
		other := b.environment()
		if a := b.do(b.key, "POST", "/v1/environments/"+other.ID+"/keys/"+s.key.ID+"/revoke", nil); a.status != http.StatusNotFound {
			t.Errorf("revoking the key of another environment: %d", a.status)
		}
	})
}

// TestRevocationReachesALongPoll: whoever is waiting with a key when it is
// revoked gets no work with it.
func TestRevocationReachesALongPoll(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		answered := make(chan answer, 1)
		go func() { answered <- b.long(s.key.Key, s.env.ID, "worker-1") }()
		b.eventually("the worker waits", func() bool { return *s.stats().WorkersPolling == 1 })
		ok[api.EnvironmentKey](b, b.key, "POST", s.keys()+"/"+s.key.ID+"/revoke", nil)
		b.session(s.agent.ID, s.env.ID, "$ true")
		if a := <-answered; a.status != http.StatusUnauthorized || strings.Contains(string(a.body), "secret") {
			t.Errorf("the long poll was answered %d %s", a.status, a.body)
		}
		if w := b.poll(b.envKey(s.env.ID, nil).Key, s.env.ID, "?block_ms=999&reclaim_older_than_ms=1"); w == nil {
			t.Error("the work that the revoked key was waiting for is lost")
		}
	})
}

// long polls as the worker named, for as long as a poll may wait.
func (b *brain) long(credential, environmentID, worker string) answer {
	r := b.request(b.ctx, credential, "GET", "/v1/environments/"+environmentID+"/work/poll?block_ms=999", nil)
	r.Header.Set("Anthropic-Worker-ID", worker)
	return b.send(r)
}

// TestPollWakes: a poll is answered when work comes, not when its time is over.
// Of two polls, the one that began later and gets work is answered first, but
// for a machine that stands still for a second; in some round it does not.
func TestPollWakes(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		idle, busy := b.site(), b.site()
		woken := false
		for round := 1; round <= 3 && !woken; round++ {
			worker := fmt.Sprint("worker-", round)
			poll := func(s *site) chan answer {
				answered := make(chan answer, 1)
				go func() { answered <- b.long(s.key.Key, s.env.ID, worker) }()
				b.eventually("the worker waits", func() bool { return *s.stats().WorkersPolling == int64(round) })
				return answered
			}
			first, second := poll(idle), poll(busy)
			made := b.session(busy.agent.ID, busy.env.ID, "$ true")
			a := <-second
			if a.status != 200 || !strings.Contains(string(a.body), made.ID) {
				t.Fatalf("the poll was answered %d %s", a.status, a.body)
			}
			woken = len(first) == 0
			if a := <-first; string(a.body) != "null\n" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("nothing to do is %q of type %s", a.body, a.header.Get("Content-Type"))
			}
		}
		if !woken {
			t.Error("polls learn of work only when their time is over")
		}
	})
}

// TestSecretOnlyFromPoll: no other answer about work holds a token.
func TestSecretOnlyFromPoll(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for _, request := range []string{"GET " + s.item(), "POST " + s.item() + "/ack", "GET /v1/environments/" + s.env.ID + "/work", "POST " + s.item() + "/stop"} {
			method, path, _ := strings.Cut(request, " ")
			credential := b.key
			if strings.HasSuffix(path, "/ack") {
				credential = s.key.Key
			}
			a := b.do(credential, method, path, nil)
			if a.status != 200 || !strings.Contains(string(a.body), `"secret":null`) {
				t.Errorf("%s: %d %s", request, a.status, a.body)
			}
		}
	})
}

// TestHeartbeats: compare-and-set, and what a mismatch tells.
func TestHeartbeats(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		beat := func(credential, expected, more string) answer {
			return b.do(credential, "POST", s.item()+"/heartbeat?expected_last_heartbeat="+url.QueryEscape(expected)+more, nil)
		}
		item := ok[api.Work](b, b.key, "GET", s.item(), nil)
		if item.State != api.WorkActive || item.StartedAt == nil || item.AcknowledgedAt == nil || item.LatestHeartbeatAt == nil {
			t.Errorf("the item is %+v", item)
		}
		last := item.LatestHeartbeatAt.Format("2006-01-02T15:04:05.000000Z")
		second := ok[api.Heartbeat](b, s.token, "POST", s.item()+"/heartbeat?desired_ttl_seconds=5&expected_last_heartbeat="+url.QueryEscape(last), nil)
		if !second.LeaseExtended || second.State != api.WorkActive || second.TTLSeconds != 5 || second.LastHeartbeat <= last {
			t.Errorf("the second beat is %+v", second)
		}
		if a := beat(s.token, last, ""); a.status != 200 || !strings.Contains(string(a.body), second.LastHeartbeat) {
			t.Errorf("the same beat sent again by the holder: %d %s", a.status, a.body)
		}
		for _, expected := range []string{last, api.NoHeartbeat, "yesterday"} {
			a := beat(s.key.Key, expected, "") // not by the holder's token, so not a repetition
			state, _ := a.failure().Details["current_state"].(object)
			if a.status != 412 || a.failure().Type != api.ErrInvalidRequest || a.failure().Details["error_code"] != "heartbeat_precondition_failed" ||
				state["last_heartbeat"] != second.LastHeartbeat || state["lease_extended"] != false || state["state"] != "active" || state["ttl_seconds"] != 5.0 {
				t.Errorf("a beat that expects %q: %d %s", expected, a.status, a.body)
			}
		}
		if a := beat(s.key.Key, second.LastHeartbeat, ""); a.status != 200 {
			t.Errorf("carrying on with the environment key: %d %s", a.status, a.body)
		}
	})
}

// TestHeartbeatOfAnUnclaimedItem tells that there is no lease to extend.
func TestHeartbeatOfAnUnclaimedItem(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		b.session(s.agent.ID, s.env.ID, "$ true")
		queued := ok[api.Page[api.Work]](b, b.key, "GET", "/v1/environments/"+s.env.ID+"/work?limit=1", nil).Data[0]
		path := "/v1/environments/" + s.env.ID + "/work/" + queued.ID
		a := b.do(s.key.Key, "POST", path+"/heartbeat?expected_last_heartbeat="+api.NoHeartbeat, nil)
		state, _ := a.failure().Details["current_state"].(object)
		if last, there := state["last_heartbeat"]; a.status != 412 || !there || last != nil || state["state"] != "queued" {
			t.Errorf("heartbeat: %d %s", a.status, a.body)
		}
		a = b.do(s.key.Key, "POST", path+"/ack", nil)
		s.wantRefusal("acknowledging what nobody claimed", a, http.StatusConflict)
	})
}

// TestStop: gracefully the holder is asked, forced it is over; a second time is
// a conflict that no retry resolves. The session lives on.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		asked := ok[api.Work](b, b.key, "POST", s.item()+"/stop", object{})
		if asked.State != api.WorkStopping || asked.StopRequestedAt == nil || asked.StoppedAt != nil {
			t.Errorf("asked to stop, the item is %+v", asked)
		}
		beat := ok[api.Heartbeat](b, s.token, "POST", s.item()+"/heartbeat?expected_last_heartbeat=whatever", nil)
		if beat.State != api.WorkStopping || beat.LeaseExtended {
			t.Errorf("the holder hears %+v", beat)
		}
		forced := ok[api.Work](b, s.token, "POST", s.item()+"/stop", object{"force": true})
		if forced.State != api.WorkStopped || forced.StoppedAt == nil || !forced.StopRequestedAt.Equal(*asked.StopRequestedAt) {
			t.Errorf("forced to stop, the item is %+v", forced)
		}
		s.wantRefusal("stopping again", b.do(s.key.Key, "POST", s.item()+"/stop", object{"force": true}), http.StatusConflict)
		if got := ok[api.Session](b, b.key, "GET", "/v1/sessions/"+s.session.ID, nil); got.Status != api.SessionIdle {
			t.Errorf("the session is %s", got.Status)
		}
		if w := b.poll(s.key.Key, s.env.ID, "?block_ms=999"); w == nil || w.Data.ID != s.session.ID || w.ID == s.work.ID {
			t.Errorf("the session still waits, and is offered as %+v", w)
		}
	})
}

// TestStats counts what waits, what is claimed, and who polls.
func TestStats(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		if got := s.stats(); got.Depth != 0 || got.Pending != 0 || got.OldestQueuedAt != nil || *got.WorkersPolling != 0 {
			t.Errorf("with nothing queued: %+v", got)
		}
		b.session(s.agent.ID, s.env.ID, "$ true")
		b.session(s.agent.ID, s.env.ID, "$ true")
		if got := s.stats(); got.Depth != 2 || got.Pending != 0 || got.OldestQueuedAt == nil {
			t.Errorf("with two queued: %+v", got)
		}
		b.long(s.key.Key, s.env.ID, "worker-1")
		if got := s.stats(); got.Depth != 1 || got.Pending != 1 || *got.WorkersPolling != 1 {
			t.Errorf("with one of two claimed: %+v", got)
		}
	})
}

// TestUpdateWork merges metadata; null deletes a key.
func TestUpdateWork(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		ok[api.Work](b, b.key, "POST", s.item(), object{"metadata": object{"a": "1", "b": "2"}})
		got := ok[api.Work](b, b.key, "POST", s.item(), object{"metadata": object{"a": nil, "c": "3"}})
		if len(got.Metadata) != 2 || got.Metadata["b"] != "2" || got.Metadata["c"] != "3" || got.State != api.WorkActive {
			t.Errorf("the item is %+v", got)
		}
	})
}
