package queue

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
)

// TestQueueAgainstAModel runs random operations on the queue and on a model of
// it, and compares all that can be seen of the two after each.
func TestQueueAgainstAModel(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		rapid.Check(t, func(t *rapid.T) {
			m := &machine{bench: b, live: map[string]*liveItem{}, fruitless: map[string]int{}, left: map[string]int{}, givenUp: map[string]int{}, ended: map[string]time.Time{}}
			b.env = api.NewID(api.PrefixEnvironment)
			for range 3 {
				m.sessions = append(m.sessions, api.NewID(api.PrefixSession))
			}
			t.Repeat(map[string]func(*rapid.T){
				"": m.check, "offer": m.offers, "poll": m.polls, "ack": m.acks, "beat": m.beats,
				"stop": m.stops, "retire": m.retires, "need": m.needsChange, "time passes": m.timePasses,
			})
		})
	})
}

// machine is the model: the live item of each session, if any, and the tokens given out.
type machine struct {
	*bench
	sessions  []string
	live      map[string]*liveItem // by session
	fruitless map[string]int       // by session
	left      map[string]int       // by session
	givenUp   map[string]int       // by session
	ended     map[string]time.Time // when an item stopped, by item
	tokens    []issued
}

type liveItem struct {
	id      string // "" until it has been seen
	state   api.WorkState
	claim   int64
	from    time.Time // when it is on offer
	claimed time.Time // zero: not claimed
	lease   time.Time // when the lease lapses; zero: there is none
	last    string    // heartbeat
}

type issued struct {
	token, session, item string
	claim                int64
}

// claimableAt is when a queued item can be claimed.
func (it *liveItem) claimableAt(reclaim time.Duration) time.Time {
	if it.claimed.IsZero() {
		return it.from
	}
	return it.claimed.Add(reclaim)
}

func (m *machine) session(t *rapid.T) string { return rapid.SampledFrom(m.sessions).Draw(t, "session") }

// item draws a session that has a live item.
func (m *machine) item(t *rapid.T) (string, *liveItem) {
	var having []string
	for _, s := range m.sessions {
		if m.live[s] != nil {
			having = append(having, s)
		}
	}
	if len(having) == 0 {
		t.Skip("no session has a live item")
	}
	s := rapid.SampledFrom(having).Draw(t, "session with an item")
	return s, m.live[s]
}

func (m *machine) offers(t *rapid.T) {
	s, progress := m.session(t), rapid.Bool().Draw(t, "progress")
	m.offer(t, s, progress)
	now, it := m.clock.now(), m.live[s]
	if progress {
		m.fruitless[s] = 0
	}
	switch {
	case it == nil:
		m.live[s] = &liveItem{state: api.WorkQueued, from: now}
	case progress && it.state == api.WorkQueued && it.from.After(now):
		it.from = now
	}
}

func (m *machine) polls(t *rapid.T) {
	reclaim := time.Duration(rapid.IntRange(1, 8).Draw(t, "reclaim after")) * time.Second
	w := m.poll(t, PollParams{ReclaimAfter: reclaim})
	now := m.clock.now()
	var oldest *liveItem
	for _, it := range m.live {
		if it.state == api.WorkQueued && !it.claimableAt(reclaim).After(now) && (oldest == nil || it.from.Before(oldest.from)) {
			oldest = it
		}
	}
	if (w == nil) != (oldest == nil) {
		t.Fatalf("polled %+v, the model has %+v on offer", w, oldest)
	}
	if w == nil {
		return
	}
	it := m.live[w.Data.ID]
	if it == nil || it.id != w.ID || it.state != api.WorkQueued || it.claimableAt(reclaim).After(now) || !it.from.Equal(oldest.from) {
		t.Fatalf("polled %+v, which the model has as %+v, and %+v as the oldest on offer", w, it, oldest)
	}
	it.claim, it.claimed = it.claim+1, now
	m.tokens = append(m.tokens, issued{token(t, w), w.Data.ID, w.ID, it.claim})
}

// taken tells whether a worker may have begun something.
func (it *liveItem) taken() bool { return it.state != api.WorkQueued }

func (m *machine) acks(t *rapid.T) {
	_, it := m.item(t)
	_, err := m.q.Ack(m.ctx, m.env, it.id)
	if it.state == api.WorkQueued && it.claimed.IsZero() {
		wantStatus(t, "ack of what nobody has claimed", err, 409)
		return
	}
	wantStatus(t, "ack", err, 0)
	if it.state == api.WorkQueued {
		it.state, it.lease = api.WorkStarting, m.clock.now().Add(time.Minute)
	}
}

func (m *machine) beats(t *rapid.T) {
	_, it := m.item(t)
	right := it.last
	if right == "" {
		right = api.NoHeartbeat
	}
	expected := rapid.SampledFrom([]string{right, right, api.NoHeartbeat, "2020-01-01T00:00:00.000000Z"}).Draw(t, "expected")
	got, err := m.beat(it.id, expected, 0)
	switch {
	case it.state == api.WorkStopping:
		if err != nil || got.LeaseExtended || got.State != api.WorkStopping {
			t.Fatalf("beat of an item that is stopping: %+v, %v", got, err)
		}
	case it.state == api.WorkQueued || expected != right:
		wantStatus(t, "beat that must not match", err, 412)
	default:
		if err != nil || !got.LeaseExtended || got.LastHeartbeat <= it.last {
			t.Fatalf("beat after %q: %+v, %v", it.last, got, err)
		}
		it.state, it.last, it.lease = api.WorkActive, got.LastHeartbeat, m.clock.now().Add(time.Minute)
	}
}

func (m *machine) stops(t *rapid.T) {
	s, it := m.item(t)
	force := rapid.Bool().Draw(t, "force")
	_, err := m.q.Stop(m.ctx, m.env, it.id, force)
	wantStatus(t, "stop", err, 0)
	if force || it.last == "" {
		m.end(s)
		return
	}
	it.state = api.WorkStopping
}

// end stops the session's item, and adds another when the session still waits.
func (m *machine) end(session string) {
	begun := m.live[session].taken()
	m.ended[m.live[session].id] = m.clock.now()
	delete(m.live, session)
	if from, again := m.again(session, begun); again {
		m.live[session] = &liveItem{state: api.WorkQueued, from: from}
	}
}

// again tells whether a session whose activation has ended is offered again;
// begun, that a worker has taken the item.
func (m *machine) again(session string, begun bool) (from time.Time, again bool) {
	if waiting, _ := m.needs.Demand(m.ctx, nil, session); !waiting {
		return time.Time{}, false
	}
	m.fruitless[session]++
	if m.fruitless[session] > maxOffers {
		m.givenUp[session]++
		return time.Time{}, false
	}
	if begun {
		m.left[session]++
	}
	return m.clock.now().Add(pauses[m.fruitless[session]-1]), true
}

func (m *machine) retires(t *rapid.T) {
	s := m.session(t)
	m.retire(t, s)
	if it := m.live[s]; it != nil {
		m.ended[it.id] = m.clock.now()
		delete(m.live, s)
	}
}

func (m *machine) needsChange(t *rapid.T) {
	m.needs.set(m.session(t), rapid.IntRange(0, 3).Draw(t, "waits") > 0)
}

func (m *machine) timePasses(t *rapid.T) {
	m.clock.advance(time.Duration(rapid.IntRange(1, 70_000).Draw(t, "milliseconds")) * time.Millisecond)
	m.sweep(t)
	now := m.clock.now()
	for _, s := range m.sessions {
		it := m.live[s]
		switch {
		case it == nil || it.lease.IsZero() || it.lease.After(now):
		case it.state == api.WorkStopping:
			m.end(s)
		default:
			m.lapses(s, it)
		}
	}
}

// lapses puts an item whose worker is gone back on offer, if that is wanted.
func (m *machine) lapses(session string, it *liveItem) {
	from, again := m.again(session, it.taken())
	if !again {
		m.ended[it.id] = m.clock.now()
		delete(m.live, session)
		return
	}
	*it = liveItem{id: it.id, state: api.WorkQueued, claim: it.claim, from: from}
}

// check compares what can be seen of the queue with the model.
func (m *machine) check(t *rapid.T) {
	items, more, err := m.q.List(m.ctx, m.env, "", 1000)
	if err != nil || more {
		t.Fatalf("list: more %v, %v", more, err)
	}
	live := 0
	for _, w := range items {
		if w.State == api.WorkStopped {
			continue
		}
		live++
		it := m.live[w.Data.ID]
		if it != nil && it.id == "" {
			it.id = w.ID
		}
		if it == nil || it.id != w.ID || it.state != w.State {
			t.Fatalf("the queue has %+v, the model %+v", w, it)
		}
	}
	if live != len(m.live) {
		t.Fatalf("%d live items, the model has %d", live, len(m.live))
	}
	m.checkStats(t)
	for _, issued := range m.tokens {
		_, err := m.q.VerifyToken(m.ctx, issued.token)
		if (err == nil) != m.good(issued) {
			t.Fatalf("the token of claim %d of %s: %v, the model has %+v", issued.claim, issued.item, err, m.live[issued.session])
		}
	}
	for _, s := range m.sessions {
		if got := m.needs.leftUnfinished(s); got != m.left[s] {
			t.Fatalf("session %s: its workers were seen to leave %d times, want %d", s, got, m.left[s])
		}
		if got := m.needs.givenUpOn(s); got != m.givenUp[s] {
			t.Fatalf("session %s was given up %d times, want %d", s, got, m.givenUp[s])
		}
	}
}

func (m *machine) checkStats(t *rapid.T) {
	stats, err := m.q.Stats(m.ctx, m.env)
	if err != nil {
		t.Fatal(err)
	}
	var depth, pending int64
	for _, it := range m.live {
		switch {
		case it.state != api.WorkQueued:
		case it.claimed.IsZero():
			depth++
		default:
			pending++
		}
	}
	if stats.Depth != depth || stats.Pending != pending {
		t.Fatalf("stats %+v, want depth %d and pending %d", stats, depth, pending)
	}
}

// good tells whether a token must be valid: for its item's latest claim, until
// a minute after that claim is over.
func (m *machine) good(i issued) bool {
	later := func(other issued) bool { return other.item == i.item && other.claim > i.claim }
	if slices.ContainsFunc(m.tokens, later) {
		return false
	}
	over, stopped := m.ended[i.item]
	if it := m.live[i.session]; !stopped && it.state == api.WorkQueued && it.claimed.IsZero() {
		over, stopped = it.from, true
	}
	return !stopped || m.clock.now().Sub(over) <= time.Minute
}
