package conformance

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"hearth/test/run"
)

// postsOf gives what posts of events by a worker hold to look, which tells with
// what status to refuse them, zero for not at all.
func postsOf(look func(credential string, body []byte) (status int)) func(http.Handler) http.Handler {
	return func(server http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body []byte
			if r.UserAgent() == "hearth-worker" && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events") {
				body, _ = io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			if status := look(r.Header.Get("Authorization"), body); status != 0 {
				http.Error(w, "<html>no</html>", status)
				return
			}
			server.ServeHTTP(w, r)
		})
	}
}

// TestResultNotLetThrough has something between worker and server dislike what a
// result says: the agent is told, and goes on.
func TestResultNotLetThrough(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"forbidden": http.StatusForbidden, "too large": http.StatusRequestEntityTooLarge, "nonsense": http.StatusBadRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := run.ServeBehind(t, postsOf(func(_ string, body []byte) int {
				if bytes.Contains(body, []byte("DROP TABLE")) {
					return status
				}
				return 0
			}))
			s := newSite(t, b, name)
			hearthWorker(t, s, t.TempDir(), "process")
			c := s.start(t, "$ echo before\n$ printf 'DROP %s' TABLE; echo x >>runs\n$ cat runs")
			c.expect(c.end(1), "before", "was not let through to you", "x")
		})
	}
}

// TestClaimOver has the server take no more of a worker's claim than the call it
// has begun: when the worker has the session again, it does not run it again.
func TestClaimOver(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	over := ""
	b := run.ServeBehind(t, postsOf(func(credential string, body []byte) int {
		mu.Lock()
		defer mu.Unlock()
		if over == "" && bytes.Contains(body, []byte("once")) {
			over = credential
		}
		if over != "" && credential == over {
			return http.StatusUnauthorized
		}
		return 0
	}))
	s := newSite(t, b, "over")
	hearthWorker(t, s, t.TempDir(), "process")
	c := s.start(t, "$ echo before\n$ echo x >>runs; printf on; echo ce\n$ cat runs")
	c.expect(c.end(1), "before", "The worker was stopped while this call ran", "x")
}
