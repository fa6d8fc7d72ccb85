package gateway

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hearth/api"
)

// start starts a provider that answers as handler does, and a gateway to it.
func start(t *testing.T, cfg Config, prefix string, handler http.HandlerFunc) (ask func() (*httptest.ResponseRecorder, Passed, error)) {
	t.Helper()
	provider := httptest.NewServer(handler)
	t.Cleanup(provider.Close)
	cfg.BaseURL, cfg.APIKey = provider.URL+prefix, "the-operators-key"
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return func() (*httptest.ResponseRecorder, Passed, error) {
		w := httptest.NewRecorder()
		var told Passed
		err := g.Pass(w, httptest.NewRequestWithContext(t.Context(), "POST", "/v1/messages", strings.NewReader(`{}`)), "/v1/messages", func(p Passed) { told = p })
		return w, told, err
	}
}

func TestBaseURL(t *testing.T) {
	for _, bad := range []string{"ftp://example.com", "example.com", "http://", "://", "/v1"} {
		if _, err := New(Config{BaseURL: bad}); err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
	for prefix, want := range map[string]string{"": "/v1/messages", "/": "/v1/messages", "/gateway/anthropic": "/gateway/anthropic/v1/messages", "/gateway/": "/gateway/v1/messages"} {
		var got string
		ask := start(t, Config{}, prefix, func(_ http.ResponseWriter, r *http.Request) { got = r.URL.Path })
		if _, _, err := ask(); err != nil || got != want {
			t.Errorf("%q: asked at %s, %v", prefix, got, err)
		}
	}
}

// TestHeaders: what tells of the operator's account is kept back.
func TestHeaders(t *testing.T) {
	ask := start(t, Config{}, "", func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range map[string]string{
			"Content-Type": "application/json", "Request-Id": "req_theirs", "Retry-After": "3", "Anthropic-Ratelimit-Requests-Remaining": "7",
			"Set-Cookie": "a=b", "Anthropic-Organization-Id": "org", "Server": "theirs", "Strict-Transport-Security": "max-age=1",
		} {
			w.Header().Set(name, value)
		}
		_, _ = io.WriteString(w, `{"model":"m","usage":{"input_tokens":5,"output_tokens":6,"cache_read_input_tokens":null}}`)
	})
	w, told, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	h := w.Header()
	if h.Get("Provider-Request-Id") != "req_theirs" || h.Get("Request-Id") != "" || h.Get("Retry-After") != "3" || h.Get("Anthropic-Ratelimit-Requests-Remaining") != "7" {
		t.Errorf("the client sees %v", h)
	}
	for _, name := range []string{"Set-Cookie", "Anthropic-Organization-Id", "Server", "Strict-Transport-Security"} {
		if h.Get(name) != "" {
			t.Errorf("the client sees %s", name)
		}
	}
	if want := (Passed{ProviderRequestID: "req_theirs", Model: "m", Usage: Usage{InputTokens: 5, OutputTokens: 6}}); told != want {
		t.Errorf("told %+v, want %+v", told, want)
	}
}

// TestUsageOfStreams is the last that was said of each count.
func TestUsageOfStreams(t *testing.T) {
	ask := start(t, Config{}, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for _, piece := range []string{
			"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":5,\"output", "_tokens\":1}}}\r\n\r\n",
			"data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"" + strings.Repeat("x", maxKept) + " \\\"message_delta\\\"\"}}\n\n",
			"data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":60}}\n\ndata: [DONE]\n\n",
		} {
			_, _ = io.WriteString(w, piece)
			_ = http.NewResponseController(w).Flush()
		}
	})
	if _, told, err := ask(); err != nil || told.Model != "m" || told.Usage != (Usage{InputTokens: 5, OutputTokens: 60}) {
		t.Errorf("told %+v, %v", told, err)
	}
}

func TestWhatLeadsElsewhere(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		ask := start(t, Config{}, "", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "https://example.com/", status) })
		w, _, err := ask()
		var wire *api.Error
		if !errors.As(err, &wire) || wire.Status != http.StatusBadGateway || w.Body.Len() > 0 || w.Header().Get("Location") != "" {
			t.Errorf("%d: %v, %v", status, err, w)
		}
	}
	g, err := New(Config{BaseURL: "http://127.0.0.1:1", APIKey: "the-operators-key"})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Pass(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/v1/models", nil), "/v1/models", func(Passed) {})
	var wire *api.Error
	if !errors.As(err, &wire) || wire.Status != http.StatusBadGateway {
		t.Errorf("nobody there: %v", err)
	}
}

// TestConcurrency: what is too much is told so at once.
func TestConcurrency(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	ask := start(t, Config{Concurrency: 1}, "", func(http.ResponseWriter, *http.Request) {
		reached <- struct{}{}
		<-release
	})
	first := make(chan error)
	go func() {
		_, _, err := ask()
		first <- err
	}()
	<-reached
	w, _, err := ask()
	var wire *api.Error
	if !errors.As(err, &wire) || wire.Status != 529 || wire.Type != api.ErrOverloaded || w.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("the one before: %v", err)
	}
	go func() { <-reached }()
	if _, _, err := ask(); err != nil {
		t.Errorf("the one after: %v", err)
	}
}
