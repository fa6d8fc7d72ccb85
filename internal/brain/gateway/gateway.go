// Package gateway passes requests for models and messages on to the provider of
// the models, with the operator's credential, so that one address and one key
// serve a whole application. It adds nothing to a request and repeats none. It
// owns no data and calls nobody but the provider.
package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"hearth/api"
)

// DefaultBaseURL is the address of the provider that the official SDKs know.
const DefaultBaseURL = "https://api.anthropic.com"

// Config of a Gateway.
type Config struct {
	// BaseURL is the provider's address. Default DefaultBaseURL.
	BaseURL string
	// APIKey is the operator's credential.
	APIKey string
	// Concurrency is how many requests may be under way at once. Default 256.
	Concurrency int
	// Transport reaches the provider. Default: one with no overall time-out.
	Transport http.RoundTripper
}

// Gateway passes requests on.
type Gateway struct {
	cfg   Config
	base  *url.URL
	proxy *httputil.ReverseProxy
	slots chan struct{} // one for each request under way
}

// New makes a gateway. It makes no request.
func New(cfg Config) (*Gateway, error) {
	base, err := url.Parse(cmp.Or(cfg.BaseURL, DefaultBaseURL))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, errors.New("the model's address must be an http or https URL")
	}
	base.Path = "/" + strings.TrimPrefix(base.Path, "/") // or what is joined to it would have no slash in front
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 32,
			IdleConnTimeout:     90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second,
			DisableCompression:  true, // so that a stream comes event by event
		}
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 256
	}
	g := &Gateway{cfg: cfg, base: base, slots: make(chan struct{}, cfg.Concurrency)}
	g.proxy = &httputil.ReverseProxy{
		Rewrite:        g.rewrite,
		ModifyResponse: g.modify,
		ErrorHandler:   func(_ http.ResponseWriter, r *http.Request, err error) { passageOf(r.Context()).err = err },
		Transport:      cfg.Transport,
		FlushInterval:  -1,
		ErrorLog:       log.New(io.Discard, "", 0), // Passed.Cut tells
	}
	return g, nil
}

// Passed is what is known of a request that was passed on.
type Passed struct {
	// ProviderRequestID is how the provider calls the request.
	ProviderRequestID string
	// Model and Usage are what the provider said in its answer, if it did.
	Model string
	Usage Usage
	// Cut is set when the answer broke off.
	Cut bool
}

// Usage is what a message cost, in tokens.
type Usage struct {
	InputTokens              int64 `json:"input_tokens"`
	OutputTokens             int64 `json:"output_tokens"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens"`
}

// passage is a request on its way, as its parts hand it to each other.
type passage struct {
	path   string
	passed Passed
	meter  *meter
	err    error // no answer came from the provider
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage { return ctx.Value(passageKey{}).(*passage) }

// requestHeaders are the client's that the provider is to see. Its credentials
// are not among them.
var requestHeaders = []string{
	"Accept", "Content-Type", "Content-Encoding", "User-Agent", "Anthropic-Version", "Anthropic-Beta",
	"X-Stainless-Arch", "X-Stainless-Helper", "X-Stainless-Helper-Method", "X-Stainless-Lang", "X-Stainless-Os", "X-Stainless-Package-Version",
	"X-Stainless-Retry-Count", "X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Timeout",
}

// responseHeaders are the provider's that the client is to see, beside those
// about rate limits. What tells of the operator's account is not among them.
var responseHeaders = []string{"Cache-Control", "Content-Length", "Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry"}

const rateLimits = "Anthropic-Ratelimit-"

// HeaderProviderRequestID says in an answer how the provider calls the request.
const HeaderProviderRequestID = "provider-request-id"

// Pass passes a request on to a path of the provider's, and its answer back. An
// error means that nothing has been written yet. A stream that breaks off panics
// with http.ErrAbortHandler, as handlers do, after passed has been told.
func (g *Gateway) Pass(w http.ResponseWriter, r *http.Request, path string, passed func(Passed)) error {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		w.Header().Set("retry-after", "1")
		return &api.Error{Status: statusOverloaded, Type: api.ErrOverloaded, Message: fmt.Sprintf("%d requests to the model are under way, which is as many as this server allows", g.cfg.Concurrency)}
	}
	p := &passage{path: path}
	body := &failingReader{ReadCloser: r.Body}
	in := r.Clone(context.WithValue(r.Context(), passageKey{}, p))
	in.Body = body
	in.Header.Del("Upgrade") // to another protocol
	done := false
	defer func() {
		if p.meter != nil {
			p.passed.Model, p.passed.Usage = p.meter.result()
		}
		p.passed.Cut = !done
		passed(p.passed)
	}()
	g.proxy.ServeHTTP(w, in)
	done = true
	switch {
	case p.err == nil:
		return nil
	case body.err != nil: // the client's doing
		return body.err
	case r.Context().Err() != nil:
		return r.Context().Err()
	}
	return g.refused(p.err)
}

// statusOverloaded is what the Messages API answers when it has too much to do.
const statusOverloaded = 529

// failingReader remembers why it could not be read.
type failingReader struct {
	io.ReadCloser
	err error
}

func (f *failingReader) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// refused is the error of a request that got no answer, or none that is the
// client's business.
func (g *Gateway) refused(err error) error {
	var wire *api.Error
	if errors.As(err, &wire) {
		return wire
	}
	return &api.Error{Status: http.StatusBadGateway, Type: api.ErrAPI, Message: "the model's provider gave no answer: " + g.discreet(err.Error())}
}

// discreet takes the operator's credential out of a text.
func (g *Gateway) discreet(text string) string {
	if g.cfg.APIKey == "" {
		return text
	}
	return strings.ReplaceAll(text, g.cfg.APIKey, "[credential]")
}

func (g *Gateway) rewrite(r *httputil.ProxyRequest) {
	p := passageOf(r.In.Context())
	query := r.Out.URL.RawQuery
	r.Out.URL = g.base.JoinPath(p.path)
	r.Out.URL.RawQuery = query
	r.Out.Host = ""
	r.Out.Header = http.Header{"Accept-Encoding": {"identity"}, "X-Api-Key": {g.cfg.APIKey}}
	for _, name := range requestHeaders {
		if values := r.In.Header.Values(name); len(values) > 0 {
			r.Out.Header[name] = values
		}
	}
	if r.Out.Header.Get("User-Agent") == "" {
		r.Out.Header.Set("User-Agent", "hearth")
	}
	if r.Out.Header.Get("Anthropic-Version") == "" {
		r.Out.Header.Set("Anthropic-Version", "2023-06-01")
	}
}

// maxErrorBody bounds what is kept of an error, in bytes.
const maxErrorBody = 1 << 20

func (g *Gateway) modify(response *http.Response) error {
	p := passageOf(response.Request.Context())
	p.passed.ProviderRequestID = response.Header.Get("Request-Id")
	kept := http.Header{}
	for name, values := range response.Header {
		if strings.HasPrefix(name, rateLimits) {
			kept[name] = values
		}
	}
	for _, name := range responseHeaders {
		if values := response.Header.Values(name); len(values) > 0 {
			kept[name] = values
		}
	}
	if p.passed.ProviderRequestID != "" {
		kept.Set(HeaderProviderRequestID, p.passed.ProviderRequestID)
	}
	response.Header, response.Trailer = kept, nil
	switch {
	case response.StatusCode == http.StatusUnauthorized:
		return &api.Error{Status: http.StatusBadGateway, Type: api.ErrAPI, Message: "the model's provider refused the operator's credential, HEARTH_MODEL_API_KEY of this server", NoRetry: true}
	case response.StatusCode >= 300 && response.StatusCode < 400, response.StatusCode == http.StatusSwitchingProtocols:
		return &api.Error{Status: http.StatusBadGateway, Type: api.ErrAPI, Message: fmt.Sprintf("the model's provider answered %d, which leads elsewhere; check --model-base-url of this server", response.StatusCode), NoRetry: true}
	case response.StatusCode >= 400:
		return g.keepError(response)
	}
	p.meter = meterFor(response.Header.Get("Content-Type"))
	response.Body = &metered{response.Body, p.meter}
	return nil
}

// keepError passes an error on as it is, but for the credential, which some
// gateways quote.
func (g *Gateway) keepError(response *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	response.Body.Close()
	if err != nil {
		return err
	}
	raw = []byte(g.discreet(string(raw)))
	response.Body = io.NopCloser(bytes.NewReader(raw))
	response.ContentLength = int64(len(raw))
	response.Header.Set("Content-Length", fmt.Sprint(len(raw)))
	return nil
}

// meter reads what a message cost from an answer as it passes: from a message,
// or from the events of a stream. It keeps no more than maxKept bytes.
type meter struct {
	stream bool
	kept   []byte // the message, or the line being read
	lost   bool   // there is more than could be kept
	model  string
	usage  Usage
}

// maxKept bounds a message or a line of a stream that is looked at, in bytes.
const maxKept = 4 << 20

func meterFor(contentType string) *meter {
	return &meter{stream: strings.HasPrefix(contentType, "text/event-stream")}
}

// metered is a body that a meter looks at.
type metered struct {
	io.ReadCloser
	meter *meter
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.meter.see(p[:n])
	return n, err
}

func (m *meter) see(p []byte) {
	for m.stream {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		m.keep(line)
		if !whole {
			return
		}
		if data, ok := bytes.CutPrefix(m.kept, []byte("data:")); ok && !m.lost && (bytes.Contains(data, []byte(`"message_start"`)) || bytes.Contains(data, []byte(`"message_delta"`))) {
			m.read(data)
		}
		m.kept, m.lost, p = m.kept[:0], false, rest
	}
	m.keep(p)
}

func (m *meter) keep(p []byte) {
	if m.lost = m.lost || len(m.kept)+len(p) > maxKept; !m.lost {
		m.kept = append(m.kept, p...)
	}
}

// read takes from a message, or from an event with one, what it says.
func (m *meter) read(raw []byte) {
	type message struct {
		Model string          `json:"model"`
		Raw   json.RawMessage `json:"usage"`
	}
	var said struct {
		message
		Message message `json:"message"`
	}
	if json.Unmarshal(raw, &said) != nil {
		return
	}
	for _, one := range []message{said.Message, said.message} {
		m.model = cmp.Or(one.Model, m.model)
		// The last word on a count is the one that holds.
		_ = json.Unmarshal(one.Raw, &m.usage) // absent, or of a form that nobody knows
	}
}

func (m *meter) result() (string, Usage) {
	if !m.stream && !m.lost {
		m.read(m.kept)
	}
	return m.model, m.usage
}
