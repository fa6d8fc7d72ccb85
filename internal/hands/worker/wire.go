package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"hearth/api"
)

// wire makes the worker's requests with one credential. It is safe for
// concurrent use.
type wire struct {
	base       string
	credential string
	itemsOwn   bool // the credential is a sessions token
	worker     string
	http       *http.Client
	ours       *atomic.Bool // the server is Hearth, and so knows what others do not
}

func (w *wire) with(credential string, itemsOwn bool) *wire {
	other := *w
	other.credential, other.itemsOwn = credential, itemsOwn
	return &other
}

// refused is an answer that is not a success.
type refused struct {
	status     int
	body       api.ErrorEnvelope
	retry      string // x-should-retry
	retryAfter time.Duration
}

func (e *refused) Error() string {
	message := "no reason given"
	if e.body.Error != nil && e.body.Error.Message != "" {
		message = e.body.Error.Message
	}
	return fmt.Sprintf("the server answered %d: %s (request %s)", e.status, message, e.body.RequestID)
}

// Status is that of the answer.
func (e *refused) Status() int { return e.status }

// NotFound tells whether the server knows of no such thing.
func (e *refused) NotFound() bool { return e.status == http.StatusNotFound }

// retryable says, for each answer below 500, whether asking again may help.
var retryable = map[int]bool{
	http.StatusRequestTimeout:  true, // the server gave up waiting for us
	http.StatusConflict:        true, // as the official clients have it; a semantic conflict says x-should-retry: false
	http.StatusTooManyRequests: true, // later
	// Everything else between 400 and 499 is an answer to this very request,
	// and 412 above all: the lease is somebody else's now.
}

// transient tells whether the same request may succeed later.
func transient(err error) bool {
	var answer *refused
	if !errors.As(err, &answer) {
		return err != nil // no answer at all
	}
	switch answer.retry {
	case "true":
		return true
	case "false":
		return false
	}
	return answer.status >= 500 || retryable[answer.status]
}

// isStatus tells whether err is an answer with that status.
func isStatus(err error, status int) bool {
	var answer *refused
	return errors.As(err, &answer) && answer.status == status
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// answerTimeout bounds the wait for an answer: something between here and the
// server may take a request and say nothing, for ever.
const answerTimeout = time.Minute

// do makes one request and decodes its answer into out (nil to drop it).
func (w *wire) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	response, err := w.open(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil || out == nil || len(raw) == 0 {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode the answer of %s %s: %w", method, path, err)
	}
	return nil
}

// open makes one request whose answer is a success; the caller reads its body.
func (w *wire) open(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	address := w.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return w.send(request)
}

// upload posts a form of size bytes, once.
func (w *wire) upload(ctx context.Context, path, contentType string, form io.Reader, size int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, "POST", w.base+path, form)
	if err != nil {
		return nil, err
	}
	request.ContentLength = size
	request.Header.Set("Content-Type", contentType)
	return w.send(request)
}

func (w *wire) send(request *http.Request) (*http.Response, error) {
	path := request.URL.Path
	request.Header.Set("Authorization", "Bearer "+w.credential)
	request.Header.Set("anthropic-version", "2023-06-01")
	request.Header.Set("anthropic-beta", "managed-agents-2026-04-01")
	if strings.HasPrefix(path, "/v1/files") {
		request.Header.Set("anthropic-beta", "managed-agents-2026-04-01,files-api-2025-04-14")
	}
	if strings.HasPrefix(path, "/v1/memory_stores") {
		request.Header.Set("anthropic-beta", "agent-memory-2026-07-22") // instead, not beside
	}
	request.Header.Set("User-Agent", "hearth-worker")
	if strings.HasSuffix(path, "/work/poll") {
		request.Header.Set("Anthropic-Worker-ID", w.worker)
	}
	if strings.HasSuffix(path, "/content") {
		request.Header.Set("Accept", "application/binary")
	}
	response, err := w.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.Header.Get(api.HeaderServer) != "" {
		w.ours.Store(true)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	answer := &refused{status: response.StatusCode, retry: response.Header.Get("x-should-retry")}
	raw, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // as much as there is
	_ = json.Unmarshal(raw, &answer.body)                       // whatever it says
	if seconds, err := strconv.ParseFloat(response.Header.Get("retry-after"), 64); err == nil {
		answer.retryAfter = time.Duration(seconds * float64(time.Second))
	}
	return nil, answer
}

// attempts is how often a request is made before its failure counts.
const attempts = 3

// try makes a request, again if that may help.
func (w *wire) try(ctx context.Context, method, path string, query url.Values, in, out any) error {
	for n := 1; ; n++ {
		err := w.do(ctx, method, path, query, in, out)
		if err == nil || n == attempts || !transient(err) || sleep(ctx, backoff(n, 500*time.Millisecond, 8*time.Second, err)) != nil {
			return err
		}
	}
}

// backoff is the pause after the nth failure in a row: it doubles from first to
// most, less some jitter, unless the server asked for more.
func backoff(n int, first, most time.Duration, err error) time.Duration {
	full := min(first<<min(n-1, 16), most)
	pause := full/2 + rand.N(full/2+1)
	var answer *refused
	if errors.As(err, &answer) {
		pause = max(pause, min(answer.retryAfter, most))
	}
	return pause
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func workPath(environmentID, workID string) string {
	return "/v1/environments/" + url.PathEscape(environmentID) + "/work/" + url.PathEscape(workID)
}

func sessionPath(sessionID string) string { return "/v1/sessions/" + url.PathEscape(sessionID) }
