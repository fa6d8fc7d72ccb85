package server

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hearth/api"
)

// Limits are how many requests a client may make in a minute, and at once, by
// its API key or as a person who has signed on; 0 for as many as it likes.
// Workers are not limited: how often they ask is the server's to say. Each server
// process counts by itself.
type Limits struct {
	Create int // requests that change something: POST and DELETE
	Read   int // GET; a stream is one
}

// maxBuckets is how many clients' buckets are kept at once.
const maxBuckets = 10_000

// limiter holds clients to a number of requests in a minute, each by a bucket of
// tokens that fills up again evenly. A nil limiter lets everything pass.
type limiter struct {
	perMinute int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter // by client; guarded by mu
}

func newLimiter(perMinute int) *limiter {
	if perMinute <= 0 {
		return nil
	}
	return &limiter{perMinute: perMinute, buckets: map[string]*rate.Limiter{}}
}

// take takes a token of the client's and tells how many are left, how long it
// takes until there is one, and until all are back.
func (l *limiter) take(client string, now time.Time) (taken bool, left int, next, full time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[client]
	if b == nil {
		l.makeRoom(now)
		b = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
		l.buckets[client] = b
	}
	taken = b.AllowN(now, 1)
	tokens := b.TokensAt(now)
	wait := func(missing float64) time.Duration {
		return time.Duration(max(0, missing) * 60 / float64(l.perMinute) * float64(time.Second))
	}
	return taken, int(tokens), wait(1 - tokens), wait(float64(l.perMinute) - tokens)
}

// makeRoom forgets those whose buckets are full, which is as if they had never
// asked; and if those are few, half of all, so that it need not be done soon again.
func (l *limiter) makeRoom(now time.Time) {
	if len(l.buckets) < maxBuckets {
		return
	}
	for client, b := range l.buckets {
		if b.TokensAt(now) >= float64(l.perMinute) {
			delete(l.buckets, client)
		}
	}
	for client := range l.buckets {
		if len(l.buckets) <= maxBuckets/2 {
			return
		}
		delete(l.buckets, client)
	}
}

// limit refuses a client's request that is one too many, and says in the headers
// how many are left.
func (s *server) limit(r *request) error {
	l, what := s.creates, "change something"
	if r.Method == http.MethodGet {
		l, what = s.reads, "read"
	}
	if l == nil || !r.principal.IsClient() {
		return nil
	}
	now := time.Now()
	taken, left, next, full := l.take(string(r.principal.Kind)+" "+r.principal.ID, now)
	h := r.w.Header()
	h.Set("anthropic-ratelimit-requests-limit", strconv.Itoa(l.perMinute))
	h.Set("anthropic-ratelimit-requests-remaining", strconv.Itoa(max(0, left)))
	h.Set("anthropic-ratelimit-requests-reset", now.Add(full).UTC().Format(time.RFC3339))
	if taken {
		return nil
	}
	h.Set("retry-after", strconv.Itoa(int(math.Ceil(next.Seconds()))))
	return &api.Error{Status: http.StatusTooManyRequests, Type: api.ErrRateLimit,
		Message: "more than " + strconv.Itoa(l.perMinute) + " requests that " + what + " came within a minute; the next is taken after the seconds that retry-after says"}
}
