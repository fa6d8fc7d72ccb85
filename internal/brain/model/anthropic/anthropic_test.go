package anthropic_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/model/anthropic"
	"hearth/internal/brain/model/modeltest"
	"hearth/test/fakemodel"
)

// idle is short where a test waits for it to pass, and long everywhere else.
const idle = 300 * time.Millisecond

func adapter(s *fakemodel.Server) *anthropic.Adapter {
	return anthropic.New(anthropic.Config{BaseURL: s.URL(), APIKey: fakemodel.Key})
}

func TestSuite(t *testing.T) {
	modeltest.Run(t, func(t *testing.T) modeltest.Fixture {
		s := fakemodel.Start(t)
		s.Respond(func(r *fakemodel.Request) fakemodel.Turn {
			if r.LastText() == "call" {
				return fakemodel.Reply(fakemodel.Text("Two at once."),
					fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "echo \"ä\"\n"}),
					fakemodel.ToolUse(api.ToolRead, map[string]any{}))
			}
			return fakemodel.Reply(fakemodel.Thinking("let me see"), fakemodel.Text("one two three"), fakemodel.Text("four"))
		})
		return modeltest.Fixture{Adapter: adapter(s), Speak: modeltest.User("speak"), Call: modeltest.User("call")}
	})
}

func TestRequestCarriesTheAgentsSettings(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("ok"))
	r := modeltest.User("hello")
	r.Model = api.ModelConfig{ID: "model-7", Effort: &api.Effort{Type: "low"}, Speed: "fast", InferenceGeo: "eu"}
	a := anthropic.New(anthropic.Config{BaseURL: s.URL(), APIKey: fakemodel.Key, MaxTokens: 777})
	if _, _, err := modeltest.Ask(t, a, r); err != nil {
		t.Fatal(err)
	}
	got := s.Requests()[0]
	if got.Model != "model-7" || got.MaxTokens != 777 || !got.Stream {
		t.Errorf("model %q, max_tokens %d, stream %t", got.Model, got.MaxTokens, got.Stream)
	}
	for field, want := range map[string]string{"output_config": `{"effort":"low"}`, "speed": `"fast"`, "inference_geo": `"eu"`} {
		if string(got.Fields[field]) != want {
			t.Errorf("%s is %s, want %s", field, got.Fields[field], want)
		}
	}
	if len(got.System) != 1 || got.System[0].Text != "Be brief." || !slices.Equal(got.ToolNames(), []string{"bash", "read"}) {
		t.Errorf("system %+v, tools %v", got.System, got.ToolNames())
	}
}

// TestStandardSpeedIsNotAskedFor: it is what there is without asking, and most
// gateways do not know the word.
func TestStandardSpeedIsNotAskedFor(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("ok"))
	r := modeltest.User("hello")
	r.Model.Speed = "standard"
	if _, _, err := modeltest.Ask(t, adapter(s), r); err != nil {
		t.Fatal(err)
	}
	if speed, there := s.Requests()[0].Fields["speed"]; there {
		t.Errorf("speed %s was sent", speed)
	}
}

// TestUsageByKind: what costs differently is counted apart.
func TestUsageByKind(t *testing.T) {
	const stream = `event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1,"cache_read_input_tokens":2,"cache_creation_input_tokens":50,"cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":30},"speed":"fast"}}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":7,"server_tool_use":{"web_search_requests":3,"web_fetch_requests":4}}}

event: message_stop
data: {"type":"message_stop"}

`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, stream) // the client is the test
	}))
	defer s.Close()
	reply, err := anthropic.New(anthropic.Config{BaseURL: s.URL, APIKey: "key"}).Stream(t.Context(), modeltest.User("hello"), func(model.Delta) {})
	want := api.ModelUsage{InputTokens: 1, OutputTokens: 7, CacheReadInputTokens: 2, CacheCreationInputTokens: 50, CacheWrite1h: 30, Speed: "fast", WebSearches: 3, WebFetches: 4}
	if err != nil || reply.Usage != want {
		t.Errorf("%+v, want %+v: %v", reply.Usage, want, err)
	}
}

func TestBearerToken(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("ok"))
	a := anthropic.New(anthropic.Config{BaseURL: s.URL(), AuthToken: fakemodel.Key})
	if _, _, err := modeltest.Ask(t, a, modeltest.User("hello")); err != nil {
		t.Fatal(err)
	}
	if header := s.Requests()[0].Header; header.Get("x-api-key") != "" {
		t.Error("a key is sent next to the token")
	}
}

// TestEnvironmentIsLeftAlone: what the SDK would read from the environment is
// not the operator's configuration of this server.
func TestEnvironmentIsLeftAlone(t *testing.T) {
	t.Setenv("ANTHROPIC_API_KEY", "from-the-environment")
	t.Setenv("ANTHROPIC_AUTH_TOKEN", "from-the-environment")
	t.Setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("ok"))
	if _, _, err := modeltest.Ask(t, adapter(s), modeltest.User("hello")); err != nil {
		t.Fatal(err)
	}
	if got := s.Requests()[0].Header.Get("Authorization"); got != "" {
		t.Error("a token from the environment was sent")
	}
}

// TestConversationIsUnderstood sends back thinking, parallel calls, results
// with images, and documents; the server refuses what it would not understand.
func TestConversationIsUnderstood(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(
		fakemodel.Reply(
			fakemodel.Thinking("first look, then act"), fakemodel.RedactedThinking("hidden"), fakemodel.Text("Looking."),
			fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "ls"}), fakemodel.ToolUse(api.ToolRead, map[string]any{"file_path": "a.png"}),
		),
		fakemodel.Say("A red square."),
	)
	a, r := adapter(s), modeltest.User("hello")
	r.Messages[0].Content = append(r.Messages[0].Content, model.Block{
		Type: "document", Title: json.RawMessage(`"notes"`), Source: json.RawMessage(`{"type":"text","media_type":"text/plain","data":"notes"}`),
	})
	first, _, err := modeltest.Ask(t, a, r)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Blocks) != 5 || first.Blocks[0].Thinking != "first look, then act" {
		t.Fatalf("first reply: %+v", first.Blocks)
	}
	image := `[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QUJD"}}]`
	r.Messages = append(r.Messages,
		model.Message{Role: model.RoleAssistant, Content: first.Blocks},
		model.Message{Role: model.RoleUser, Content: []model.Block{
			{Type: model.BlockToolResult, ToolUseID: first.Blocks[3].ID, IsError: true},
			{Type: model.BlockToolResult, ToolUseID: first.Blocks[4].ID, Content: json.RawMessage(image)},
			{Type: model.BlockText, Text: "and now?"},
		}},
	)
	second, _, err := modeltest.Ask(t, a, r)
	if err != nil {
		t.Fatal(err)
	}
	if second.Blocks[0].Text != "A red square." {
		t.Errorf("second reply: %+v", second.Blocks)
	}
	results := s.Requests()[1].ToolResults()
	if failed := results[first.Blocks[3].ID]; !failed.IsError || len(failed.Content) != 0 {
		t.Errorf("the failed call arrived as %+v", failed)
	}
	if seen := results[first.Blocks[4].ID]; len(seen.Content) != 1 || seen.Content[0].Type != "image" {
		t.Errorf("the image arrived as %+v", seen)
	}
}

func TestPromptIsCached(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("ok"), fakemodel.Say("ok again"))
	a, r := adapter(s), modeltest.User(strings.Repeat("A long story. ", 500))
	r.System = strings.Repeat("Be kind. ", 1000)
	first, _, err := modeltest.Ask(t, a, r)
	if err != nil {
		t.Fatal(err)
	}
	r.Messages = append(r.Messages, model.Message{Role: model.RoleAssistant, Content: first.Blocks},
		model.Message{Role: model.RoleUser, Content: []model.Block{{Type: model.BlockText, Text: "go on"}}})
	second, _, err := modeltest.Ask(t, a, r)
	if err != nil {
		t.Fatal(err)
	}
	if first.Usage.CacheCreationInputTokens == 0 || second.Usage.CacheReadInputTokens != first.Usage.CacheCreationInputTokens {
		t.Errorf("first usage %+v, second %+v: the second should read all that the first wrote", first.Usage, second.Usage)
	}
	for i, reply := range []model.Reply{first, second} {
		u := s.Requests()[i].Usage()
		if got := reply.Usage; got.InputTokens != int64(u.Input) || got.CacheReadInputTokens != int64(u.CacheRead) || got.CacheCreationInputTokens != int64(u.CacheWritten) {
			t.Errorf("reply %d: usage %+v, charged %+v", i, got, u)
		}
	}
}

func TestStopReasons(t *testing.T) {
	for _, want := range []string{model.StopMaxTokens, model.StopRefusal, model.StopPauseTurn} {
		s := fakemodel.Start(t)
		s.Play(fakemodel.Say("I").Stopping(want))
		reply, _, err := modeltest.Ask(t, adapter(s), modeltest.User("hello"))
		if err != nil || reply.StopReason != want {
			t.Errorf("stop %q (%v), want %q", reply.StopReason, err, want)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	tests := map[string]struct {
		turn  fakemodel.Turn
		kind  string
		retry bool
	}{
		"bad request":    {fakemodel.Fail(400, "bad"), api.SessionErrorModelRequestFailed, false},
		"unauthorised":   {fakemodel.Fail(401, "bad key"), api.SessionErrorModelRequestFailed, false},
		"no money":       {fakemodel.Fail(402, "pay"), api.SessionErrorBilling, false},
		"forbidden":      {fakemodel.Fail(403, "no"), api.SessionErrorModelRequestFailed, false},
		"no such model":  {fakemodel.Fail(404, "model"), api.SessionErrorModelRequestFailed, false},
		"timeout":        {fakemodel.Fail(408, "slow"), api.SessionErrorModelRequestFailed, true},
		"conflict":       {fakemodel.Fail(409, "busy"), api.SessionErrorModelRequestFailed, true},
		"too large":      {fakemodel.Fail(413, "large"), api.SessionErrorModelRequestFailed, false},
		"rate limited":   {fakemodel.Fail(429, "slow down"), api.SessionErrorModelRateLimited, true},
		"server fault":   {fakemodel.Fail(500, "oops"), api.SessionErrorModelRequestFailed, true},
		"bad gateway":    {fakemodel.Page(502, "<h1>Bad gateway</h1>"), api.SessionErrorModelRequestFailed, true},
		"unavailable":    {fakemodel.Page(503, "come back"), api.SessionErrorModelOverloaded, true},
		"gateway slow":   {fakemodel.Fail(504, "slow"), api.SessionErrorModelRequestFailed, true},
		"overloaded":     {fakemodel.Fail(529, "busy"), api.SessionErrorModelOverloaded, true},
		"forbidden page": {fakemodel.Page(403, "<h1>Proxy says no</h1>"), api.SessionErrorModelRequestFailed, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := fakemodel.Start(t)
			s.Play(test.turn.RetryAfter(7 * time.Second))
			_, _, err := modeltest.Ask(t, adapter(s), modeltest.User("hello"))
			failed := wantError(t, err, test.kind, test.retry)
			if failed.RetryAfter != 7*time.Second {
				t.Errorf("retry after %s, want 7s", failed.RetryAfter)
			}
			if n := len(s.Requests()); n != 1 {
				t.Errorf("%d requests were made; retrying is for the loop", n)
			}
		})
	}
}

func TestBrokenStreams(t *testing.T) {
	whole := fakemodel.Say("one two three")
	tests := map[string]struct {
		turn    fakemodel.Turn
		partial string
		kind    string
		retry   bool
	}{
		"cut before the header": {whole.CutAfter(fakemodel.BeforeHeader), "", api.SessionErrorModelRequestFailed, true},
		"cut at the start":      {whole.CutAfter(0), "", api.SessionErrorModelRequestFailed, true},
		"cut in the middle":     {whole.CutAfter(2), "one two ", api.SessionErrorModelRequestFailed, true},
		"ends too early":        {whole.EndAfter(whole.Deltas()), "one two three", api.SessionErrorModelRequestFailed, true},
		"malformed event":       {whole.GarbageAfter(2), "one two ", api.SessionErrorModelRequestFailed, true},
		"overloaded":            {whole.ErrorAfter(1, "overloaded_error", "busy"), "one ", api.SessionErrorModelOverloaded, true},
		"rate limited":          {whole.ErrorAfter(1, "rate_limit_error", "slow down"), "one ", api.SessionErrorModelRateLimited, true},
		"server fault":          {whole.ErrorAfter(1, "api_error", "oops"), "one ", api.SessionErrorModelRequestFailed, true},
		"fault of a new kind":   {whole.ErrorAfter(1, "novel_error", "oops"), "one ", api.SessionErrorModelRequestFailed, true},
		"bad request":           {whole.ErrorAfter(0, "invalid_request_error", "bad"), "", api.SessionErrorModelRequestFailed, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := fakemodel.Start(t)
			s.Play(test.turn)
			reply, _, err := modeltest.Ask(t, adapter(s), modeltest.User("hello"))
			wantError(t, err, test.kind, test.retry)
			if got := said(reply); got != test.partial {
				t.Errorf("said so far: %q, want %q", got, test.partial)
			}
		})
	}
}

func TestStalls(t *testing.T) {
	for name, after := range map[string]int{"before the header": fakemodel.BeforeHeader, "in the middle": 2} {
		t.Run(name, func(t *testing.T) {
			s := fakemodel.Start(t)
			s.Play(fakemodel.Say("one two three").StallAfter(after))
			a := anthropic.New(anthropic.Config{BaseURL: s.URL(), APIKey: fakemodel.Key, IdleTimeout: idle})
			_, _, err := modeltest.Ask(t, a, modeltest.User("hello"))
			failed := wantError(t, err, api.SessionErrorModelRequestFailed, true)
			if !strings.Contains(failed.Message, "silent") {
				t.Errorf("message %q does not say that the stream went silent", failed.Message)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a := anthropic.New(anthropic.Config{BaseURL: "http://" + address, APIKey: fakemodel.Key})
	_, _, err = modeltest.Ask(t, a, modeltest.User("hello"))
	wantError(t, err, api.SessionErrorModelRequestFailed, true)
}

// TestCancelKeepsWhatWasSaid: an interrupt keeps the text so far and lets go of
// the connection at once.
func TestCancelKeepsWhatWasSaid(t *testing.T) {
	s := fakemodel.Start(t)
	gate := fakemodel.NewGate()
	s.Play(fakemodel.Say("one two three").HoldAfter(2, gate))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	asking, interrupt := context.WithCancel(ctx)
	defer interrupt()
	text := ""
	reply, err := adapter(s).Stream(asking, modeltest.User("hello"), func(d model.Delta) {
		if text += d.Text; text == "one two " {
			interrupt()
		}
	})
	if err == nil || said(reply) != "one two " {
		t.Errorf("said so far %q, error %v", said(reply), err)
	}
	select {
	case <-gate.Gone():
	case <-ctx.Done():
		t.Fatal("the connection was kept")
	}
}

// TestKeyIsNeverTold: errors end up in session logs that users read.
func TestKeyIsNeverTold(t *testing.T) {
	const key = "wrong-but-still-a-secret"
	refusing := fakemodel.New()
	defer refusing.Close()
	silent := fakemodel.New()
	silent.Close()
	for name, cfg := range map[string]anthropic.Config{
		"refused key":   {BaseURL: refusing.URL(), APIKey: key},
		"refused token": {BaseURL: refusing.URL(), AuthToken: key},
		"no server":     {BaseURL: silent.URL(), APIKey: key},
	} {
		_, _, err := modeltest.Ask(t, anthropic.New(cfg), modeltest.User("hello"))
		if err == nil || strings.Contains(err.Error(), key) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	_, _, err := modeltest.Ask(t, anthropic.New(anthropic.Config{BaseURL: refusing.URL(), APIKey: key}), modeltest.User("hello"))
	if failed := wantError(t, err, api.SessionErrorModelRequestFailed, false); failed.Status != http.StatusUnauthorized || !strings.Contains(failed.Message, "credential") {
		t.Errorf("%v does not tell the operator what to mend", failed)
	}
}

// TestPingsAreNoSilence: a model that thinks for long sends nothing but pings.
func TestPingsAreNoSilence(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("one two").PingAfter(1, 40, 50*time.Millisecond))
	a := anthropic.New(anthropic.Config{BaseURL: s.URL(), APIKey: fakemodel.Key, IdleTimeout: time.Second})
	if _, _, err := modeltest.Ask(t, a, modeltest.User("hello")); err != nil {
		t.Errorf("a stream with pings was given up: %v", err)
	}
}

// TestEchoedKeyIsTakenOut: some gateways quote the key they refuse.
func TestEchoedKeyIsTakenOut(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Fail(401, "the key "+fakemodel.Key+" is unknown"))
	_, _, err := modeltest.Ask(t, adapter(s), modeltest.User("hello"))
	if err == nil || strings.Contains(err.Error(), fakemodel.Key) {
		t.Errorf("error %v", err)
	}
}

// TestUnbuildableRequest fails as the contract says, and is not tried again.
func TestUnbuildableRequest(t *testing.T) {
	s := fakemodel.Start(t)
	r := modeltest.User("hello")
	r.Tools[0].InputSchema = json.RawMessage("{")
	_, _, err := modeltest.Ask(t, adapter(s), r)
	var failed *model.Error
	if !errors.As(err, &failed) || failed.Retryable {
		t.Errorf("error %v, want a *model.Error that is not retried", err)
	}
}

func wantError(t *testing.T, err error, kind string, retry bool) *model.Error {
	t.Helper()
	var failed *model.Error
	if !errors.As(err, &failed) {
		t.Fatalf("error %v, want a *model.Error", err)
	}
	if failed.Type != kind || failed.Retryable != retry {
		t.Errorf("%v: type %s, retryable %t; want %s, %t", failed, failed.Type, failed.Retryable, kind, retry)
	}
	return failed
}

func said(r model.Reply) string {
	var text strings.Builder
	for _, b := range r.Blocks {
		text.WriteString(b.Text)
	}
	return text.String()
}
