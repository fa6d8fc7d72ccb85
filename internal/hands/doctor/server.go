package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// The steps to a server.
const (
	stepAddress = "address"
	stepProxy   = "proxy"
	stepDNS     = "DNS"
	stepTCP     = "TCP"
	stepTLS     = "TLS"
	stepHealth  = "health"
	stepClock   = "clock"
	stepKey     = "key"
)

// server goes the way of a worker's requests, step by step.
func server(ctx context.Context, cfg Config) []Finding {
	if cfg.BaseURL == "" {
		return []Finding{skipped(stepAddress, "no server is named; set --base-url to check the way to it")}
	}
	base, address := parse(cfg.BaseURL)
	if base == nil {
		return []Finding{address}
	}
	w := newWay()
	asked := time.Now()
	response, body, err := w.get(ctx, base, "/healthz", "")
	answered := time.Now()
	found := append([]Finding{address, proxy(base)}, w.findings(base, err)...)
	if err != nil {
		const why = "the server was not reached"
		return append(found, skipped(stepHealth, why), skipped(stepClock, why), skipped(stepKey, why))
	}
	healthy := w.health(ctx, base, response, body)
	healthy.Millis = answered.Sub(asked).Milliseconds()
	found = append(found, healthy)
	if theirs, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		found = append(found, apart(stepClock, asked, answered, theirs))
	} else {
		found = append(found, skipped(stepClock, "the server does not tell its time"))
	}
	if healthy.Status == Fail {
		return append(found, skipped(stepKey, "the server is not well"))
	}
	return append(found, w.key(ctx, base, cfg))
}

// parse reads the server's address.
func parse(text string) (*url.URL, Finding) {
	const fix = "set --base-url to something like https://brain.example"
	base, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, failure(stepAddress, fix, "the address cannot be read")
	case base.Scheme != "http" && base.Scheme != "https", base.Hostname() == "":
		return nil, failure(stepAddress, fix, "%s is no address of a server", base.Redacted())
	}
	local := base.Hostname() == "localhost"
	if ip := net.ParseIP(base.Hostname()); ip != nil {
		local = ip.IsLoopback()
	}
	if base.Scheme == "http" && !local {
		return base, warning(stepAddress, "serve it by HTTPS, and set --base-url to https://"+base.Host, "%s: keys and files cross the network for all to read", base.Redacted())
	}
	return base, good(stepAddress, "%s", base.Redacted())
}

// proxy tells which proxy a worker's requests go by, and who says so.
func proxy(base *url.URL) Finding {
	var set []string
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	by, err := http.ProxyFromEnvironment(&http.Request{URL: base})
	switch {
	case err != nil:
		return failure(stepProxy, "mend "+list(set), "the proxy's address cannot be read")
	case by != nil:
		return good(stepProxy, "by %s, as %s say", by.Host, list(set))
	case len(set) > 0:
		return good(stepProxy, "none for this address, as %s say", list(set))
	}
	return good(stepProxy, "none; HTTPS_PROXY and NO_PROXY would be heeded")
}

// get makes a request, with a credential if there is one.
func (w *way) get(ctx context.Context, base *url.URL, path, credential string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, remote/2)
	defer cancel()
	request, err := http.NewRequestWithContext(w.traced(ctx), http.MethodGet, strings.TrimRight(base.String(), "/")+path, nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("User-Agent", "hearth-doctor")
	if credential != "" {
		request.Header.Set("Authorization", "Bearer "+credential)
		request.Header.Set("anthropic-version", "2023-06-01")
		request.Header.Set("anthropic-beta", "managed-agents-2026-04-01")
	}
	response, err := w.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return response, body, err
}

// health tells whether what answers is a server that is well.
func (w *way) health(ctx context.Context, base *url.URL, response *http.Response, body []byte) Finding {
	const other = "set --base-url to the server itself"
	var answer struct{ Status string }
	switch {
	case response.StatusCode >= 300 && response.StatusCode < 400:
		return failure(stepHealth, other, "the answer is a redirection to %s", response.Header.Get("Location"))
	case response.StatusCode == http.StatusNotFound:
		return warning(stepHealth, other+", if it is Hearth's", "there is no /healthz here: no server of Hearth's, or one behind another path")
	case response.StatusCode != http.StatusOK:
		return failure(stepHealth, "look at the server's log", "/healthz answers %s", response.Status)
	case json.Unmarshal(body, &answer) != nil || answer.Status != "ok":
		return failure(stepHealth, other, "something else answers at this address")
	}
	ready, body, err := w.get(ctx, base, "/readyz", "")
	switch {
	case err != nil:
		return failure(stepHealth, "look at the server's log", "/healthz answers, but /readyz does not: %v", reason(err))
	case ready.StatusCode != http.StatusOK:
		return failure(stepHealth, "look at the server's log", "the server lives but cannot serve: %s", said(ready, body))
	}
	return good(stepHealth, "the server is ready")
}

// reason is an error without the address, which has been told.
func reason(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}

// said is a server's answer in its own words, if it has any.
func said(response *http.Response, body []byte) string {
	var envelope struct {
		Error struct{ Message string }
	}
	if json.Unmarshal(body, &envelope) != nil || envelope.Error.Message == "" {
		return response.Status
	}
	return fmt.Sprintf("%d, %s", response.StatusCode, envelope.Error.Message)
}

// explainTLS tells what is wrong with a server's certificate, and what to do.
func explainTLS(base *url.URL, err error) Finding {
	var notTLS tls.RecordHeaderError
	if errors.As(err, &notTLS) {
		return failure(stepTLS, "set --base-url to http://"+base.Host+", or let the server speak TLS", "the server does not speak TLS")
	}
	return explainCertificate(err, time.Now())
}
