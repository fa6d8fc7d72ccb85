package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/test/fakemodel"
)

var modelVerdicts = map[string]verdict{
	"GET /v1/models":                 forRole(auth.RoleViewer, ""),
	"GET /v1/models/{model_id}":      forRole(auth.RoleViewer, ""),
	"POST /v1/messages":              forRole(auth.RoleDeveloper, aMessage),
	"POST /v1/messages/count_tokens": forRole(auth.RoleDeveloper, aCount),
}

const (
	aMessage = `{"model":"fake-1","max_tokens":100,"messages":[{"role":"user","content":"hello"}]}`
	aCount   = `{"model":"fake-1","messages":[{"role":"user","content":"hello"}]}`
	aStream  = `{"model":"fake-1","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hello"}]}`
)

// ask sends a body to the model, past the check that there be no 5xx.
func (b *brain) ask(ctx context.Context, body string) (*http.Response, error) {
	r := b.request(ctx, b.key, "POST", "/v1/messages", body)
	r.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(r)
}

// TestMessages: the provider sees the operator's credential and nothing of the
// client's, and the log says what a message cost.
func TestMessages(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for _, body := range []string{aMessage, aStream} {
			r := b.request(b.ctx, b.key, "POST", "/v1/messages?beta=true", body)
			for name, value := range map[string]string{
				"Content-Type": "application/json", "Authorization": "Bearer " + b.key, "Anthropic-Version": "2026-10-21", "Anthropic-Beta": "a-beta,another",
				"Anthropic-Workspace-Id": "wrkspc_default", "Cookie": "session=1", "X-Forwarded-For": "10.0.0.1", "Connection": "Upgrade, X-Private", "Upgrade": "websocket", "X-Private": "1",
			} {
				r.Header.Set(name, value)
			}
			response, err := b.http.Do(r)
			must(t, err)
			raw, err := io.ReadAll(response.Body)
			response.Body.Close()
			must(t, err)
			if response.StatusCode != 200 || !strings.Contains(string(raw), "hello") || response.Header.Get("request-id") == "" || response.Header.Get("provider-request-id") == "" {
				t.Errorf("%d %v %s", response.StatusCode, response.Header, raw)
			}
			seen, err := b.model.Next(b.ctx)
			must(t, err)
			if h := seen.Header; h.Get("x-api-key") != fakemodel.Key || h.Get("Anthropic-Version") != "2026-10-21" || h.Get("Anthropic-Beta") != "a-beta,another" {
				t.Errorf("the provider saw %v", h)
			}
			for _, name := range []string{"Authorization", "Anthropic-Workspace-Id", "Cookie", "X-Forwarded-For", "Upgrade", "X-Private"} {
				if v := seen.Header.Get(name); v != "" {
					t.Errorf("the provider saw %s: %s", name, v)
				}
			}
			provider := response.Header.Get("provider-request-id")
			b.eventually("the request is logged", func() bool { return strings.Contains(b.log.String(), "provider_request_id="+provider) })
			for line := range strings.Lines(b.log.String()) {
				if strings.Contains(line, provider) && (!strings.Contains(line, "model=fake-1 ") || !strings.Contains(line, "output_tokens=") || strings.Contains(line, "output_tokens=0") || !strings.Contains(line, response.Header.Get("request-id"))) {
					t.Errorf("logged %s", line)
				}
			}
		}
		if got := ok[map[string]int](b, b.key, "POST", "/v1/messages/count_tokens", aCount); got["input_tokens"] == 0 {
			t.Errorf("counted %v", got)
		}
	})
}

// TestProviderErrors come back as they are, with when to try again.
func TestProviderErrors(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for name, c := range map[string]struct {
			turn   fakemodel.Turn
			status int
			says   string
		}{
			"too much":       {fakemodel.Fail(429, "slow down").RetryAfter(7 * time.Second), 429, `"rate_limit_error"`},
			"overloaded":     {fakemodel.Fail(529, "busy").RetryAfter(7 * time.Second), 529, `"overloaded_error"`},
			"refused":        {fakemodel.Fail(403, "not with the key "+fakemodel.Key).RetryAfter(7 * time.Second), 403, "not with the key [credential]"},
			"a gateway's":    {fakemodel.Page(502, "<html>bad gateway</html>").RetryAfter(7 * time.Second), 502, "<html>bad gateway</html>"},
			"the credential": {fakemodel.Fail(401, "invalid x-api-key"), 502, "refused the operator's credential"},
		} {
			b.model.Play(c.turn)
			response, err := b.ask(b.ctx, aMessage)
			must(t, err)
			raw, err := io.ReadAll(response.Body)
			response.Body.Close()
			must(t, err)
			if response.StatusCode != c.status || !strings.Contains(string(raw), c.says) || c.says != "refused the operator's credential" && response.Header.Get("retry-after") != "7" {
				t.Errorf("%s: %d %v %s", name, response.StatusCode, response.Header, raw)
			}
		}
		if n := len(b.model.Requests()); n != 5 {
			t.Errorf("the provider saw %d requests, want 5: nothing is tried again", n)
		}
	})
}

// TestMessageStreams: events come as they are made, and each side's end is the
// other's.
func TestMessageStreams(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		gate := fakemodel.NewGate()
		b.model.Play(fakemodel.Say("one two three").HoldAfter(1, gate))
		response, err := b.ask(b.ctx, aStream)
		must(t, err)
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() && !strings.Contains(lines.Text(), "text_delta") {
		}
		if !strings.Contains(lines.Text(), "one") {
			t.Fatalf("the first delta did not come while the stream was held: %v", lines.Err())
		}
		gate.Open()
		for lines.Scan() && !strings.Contains(lines.Text(), "message_stop") {
		}
		if lines.Text() == "" || lines.Err() != nil {
			t.Errorf("the stream ended with %q, %v", lines.Text(), lines.Err())
		}

		gate = fakemodel.NewGate()
		b.model.Play(fakemodel.Say("one two three").HoldAfter(1, gate))
		leaving, leave := context.WithCancel(b.ctx)
		gone, err := b.ask(leaving, aStream)
		must(t, err)
		<-gate.Reached()
		leave()
		gone.Body.Close()
		select {
		case <-gate.Gone():
		case <-b.ctx.Done():
			t.Error("the provider does not hear that the client has left")
		}

		gate = fakemodel.NewGate()
		b.model.Play(fakemodel.Say("one").HoldAfter(fakemodel.BeforeHeader, gate))
		leaving, leave = context.WithCancel(b.ctx)
		go func() { <-gate.Reached(); leave() }()
		if response, err := b.ask(leaving, aMessage); !errors.Is(err, context.Canceled) {
			t.Errorf("answered %v, %v", response, err)
		}
		select {
		case <-gate.Gone():
		case <-b.ctx.Done():
			t.Error("the provider does not hear that the client has left before an answer")
		}

		b.model.Play(fakemodel.Say("one two three").CutAfter(2))
		cut, err := b.ask(b.ctx, aStream)
		must(t, err)
		defer cut.Body.Close()
		if raw, err := io.ReadAll(cut.Body); err == nil {
			t.Errorf("a stream that was cut ended well after %s", raw)
		}
		b.eventually("it is logged", func() bool { return strings.Contains(b.log.String(), "cut=true") })
	})
}

func TestTooLargeAMessage(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		body := strings.Repeat("x", MaxBody+1)
		for name, reader := range map[string]io.Reader{"with a length": strings.NewReader(body), "without": io.MultiReader(strings.NewReader(body))} {
			r, err := http.NewRequestWithContext(b.ctx, "POST", b.url+"/v1/messages", reader)
			must(t, err)
			r.Header.Set("x-api-key", b.key)
			r.Header.Set("Content-Type", "application/json")
			if a := b.send(r); a.status != http.StatusRequestEntityTooLarge || a.failure().Type != api.ErrTooLarge {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
	})
}

func TestModels(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		var seen []string
		for after := ""; ; {
			page := ok[api.ModelPage](b, b.key, "GET", "/v1/models?limit=2"+after, nil)
			for _, m := range page.Data {
				seen = append(seen, m.ID)
			}
			if !page.HasMore {
				break
			}
			after = "&after_id=" + *page.LastID
		}
		if strings.Join(seen, " ") != strings.Join(fakemodel.Models, " ") {
			t.Errorf("listed %v", seen)
		}
		for id, want := range map[string]int{"fake-2": 200, "no-such": 404, "..%2f..%2fv1%2ffiles": 404, "%2e%2e%2fmessages": 404, "a%3fb": 404, "a%0ab": 404, "a%00b": 400, "x%2fy": 404} {
			if a := b.do(b.key, "GET", "/v1/models/"+id, nil); a.status != want {
				t.Errorf("%s: %d %s", id, a.status, a.body)
			}
		}
		for _, problem := range b.model.Problems() {
			if !strings.Contains(problem, "/v1/models/no-such ") && !strings.Contains(problem, "/v1/models/x/y ") {
				t.Errorf("the provider was asked: %s", problem)
			}
		}
	})
}

// TestWithoutAProvider there is one model, which is none, and no messages.
func TestWithoutAProvider(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		page := ok[api.ModelPage](b, b.key, "GET", "/v1/models", nil)
		if len(page.Data) != 1 || page.Data[0].ID != "rehearsal" || page.HasMore || *page.FirstID != "rehearsal" {
			t.Errorf("listed %+v", page)
		}
		if page := ok[api.ModelPage](b, b.key, "GET", "/v1/models?after_id=rehearsal", nil); len(page.Data) != 0 {
			t.Errorf("after it: %+v", page)
		}
		if page := ok[api.ModelPage](b, b.key, "GET", "/v1/models?lifecycle[]=retired", nil); len(page.Data) != 0 {
			t.Errorf("retired: %+v", page)
		}
		if m := ok[api.ModelInfo](b, b.key, "GET", "/v1/models/rehearsal", nil); m.ID != "rehearsal" {
			t.Errorf("read %+v", m)
		}
		if a := b.do(b.key, "GET", "/v1/models/fake-1", nil); a.status != 404 {
			t.Errorf("another: %d %s", a.status, a.body)
		}
		for _, path := range []string{"/v1/messages", "/v1/messages/count_tokens"} {
			if a := b.do(b.key, "POST", path, aMessage); a.status != 404 || !strings.Contains(a.failure().Message, "HEARTH_MODEL_API_KEY") {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
	}, func(cfg *Config) { cfg.Gateway = nil })
}
