package server

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/db"
)

func TestRateLimits(t *testing.T) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) {
		b := newBrain(t, d, func(c *Config) { c.Limits = Limits{Create: 1000, Read: 40} })
		s := b.site()
		reader, other := b.apiKey(auth.RoleViewer, nil), b.apiKey(auth.RoleViewer, nil)
		for left := 39; left >= 0; left-- {
			a := b.do(reader.Key, "GET", "/v1/agents", nil)
			if got := a.header.Get("anthropic-ratelimit-requests-remaining"); a.status != 200 || got != strconv.Itoa(left) || a.header.Get("anthropic-ratelimit-requests-limit") != "40" {
				t.Fatalf("%d left, want %d: %d %v", left, left, a.status, a.header)
			}
			if at, err := time.Parse(time.RFC3339, a.header.Get("anthropic-ratelimit-requests-reset")); err != nil || at.Before(time.Now().Add(-2*time.Second)) {
				t.Errorf("all are back at %v, %v", at, err)
			}
		}
		a := b.do(reader.Key, "GET", "/v1/agents", nil)
		seconds, err := strconv.Atoi(a.header.Get("retry-after"))
		if a.status != http.StatusTooManyRequests || a.failure().Type != api.ErrRateLimit || err != nil || seconds < 1 || seconds > 20 {
			t.Errorf("one too many: %d %s, retry-after %q", a.status, a.body, a.header.Get("retry-after"))
		}
		if a := b.do(reader.Key, "POST", "/v1/agents", nil); a.status != http.StatusForbidden {
			t.Errorf("what changes counts by itself: %d %s", a.status, a.body)
		}
		ok[api.Page[api.Agent]](b, other.Key, "GET", "/v1/agents", nil)
		for range 5 { // another key's, a worker's and a public request are not held up
			ok[api.WorkStats](b, s.key.Key, "GET", "/v1/environments/"+s.env.ID+"/work/stats", nil)
			ok[api.Session](b, s.token, "GET", "/v1/sessions/"+s.session.ID, nil)
			b.poll(s.key.Key, s.env.ID, "?block_ms=1")
			ok[object](b, reader.Key, "GET", "/healthz", nil)
		}
		for _, want := range append(slices.Repeat([]int{200}, 40), 429) {
			if a := b.do(b.issuer.Token(object{"groups": "viewers"}), "GET", "/v1/agents", nil); a.status != want {
				t.Errorf("a person with another token each time: %d %s, want %d", a.status, a.body, want)
			}
		}
	})
}

func TestWithoutLimits(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		if a := b.do(b.key, "GET", "/v1/agents", nil); a.header.Get("anthropic-ratelimit-requests-limit") != "" {
			t.Errorf("a limit where there is none: %v", a.header)
		}
	})
}

// TestBucketsFillUpEvenly: after a minute all is there again, and never more.
func TestBucketsFillUpEvenly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(60)
		take := func() bool { taken, _, _, _ := l.take("a", time.Now()); return taken }
		drain := func() (n int) {
			for take() {
				n++
			}
			return n
		}
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{0, 60}, {0, 0}, {time.Second, 1}, {10 * time.Second, 10}, {time.Minute, 60}, {time.Hour, 60}} {
			time.Sleep(c.after)
			if n := drain(); n != c.want {
				t.Errorf("after %s %d were taken, want %d", c.after, n, c.want)
			}
		}
		_, _, next, full := l.take("a", time.Now())
		time.Sleep(next)
		if !take() {
			t.Errorf("nothing after the %s that were told", next)
		}
		time.Sleep(full)
		if n := drain(); n < 59 {
			t.Errorf("%d after the %s that were told for all", n, full)
		}
	})
}

// TestBucketsAreBounded: however many clients there are, what is kept of them is not.
func TestBucketsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLimiter(60)
	for i := range 3 * maxBuckets {
		if taken, _, _, _ := l.take(fmt.Sprint(i), time.Unix(0, 0)); !taken {
			t.Fatal("a new client is refused")
		}
	}
	if n := len(l.buckets); n > maxBuckets {
		t.Errorf("%d buckets", n)
	}
	l.take("later", time.Unix(60, 0))
	if n := len(l.buckets); n != 1 {
		t.Errorf("%d buckets after a minute of silence", n)
	}
}
