package fakemodel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/test/fakemodel"
)

// The official SDK is the judge of what the server streams.

func client(s *fakemodel.Server) *anthropic.Client {
	c := anthropic.NewClient(option.WithBaseURL(s.URL()), option.WithAPIKey(fakemodel.Key), option.WithMaxRetries(0))
	return &c
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ask(messages ...anthropic.MessageParam) anthropic.MessageNewParams {
	if len(messages) == 0 {
		messages = []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hello"))}
	}
	return anthropic.MessageNewParams{Model: "fake-1", MaxTokens: 4096, Messages: messages}
}

// stream reads a whole streamed answer.
func stream(ctx context.Context, c *anthropic.Client, params anthropic.MessageNewParams) (anthropic.Message, error) {
	var message anthropic.Message
	events := c.Messages.NewStreaming(ctx, params)
	defer events.Close()
	for events.Next() {
		if err := message.Accumulate(events.Current()); err != nil {
			return message, fmt.Errorf("accumulate: %w", err)
		}
	}
	return message, events.Err()
}

func TestSDKReadsStreamedBlocks(t *testing.T) {
	s := fakemodel.Start(t)
	input := map[string]any{"command": "printf 'äöü \"quoted\"'\n", "n": 12345.5}
	s.Play(fakemodel.Reply(
		fakemodel.Thinking("first this, then that"),
		fakemodel.RedactedThinking("hidden"),
		fakemodel.Text("I will run two tools."),
		fakemodel.ToolUse("bash", input),
		fakemodel.ToolUse("read", map[string]any{}),
	))
	got, err := stream(deadline(t), client(s), ask())
	if err != nil {
		t.Fatal(err)
	}
	if got.StopReason != "tool_use" || len(got.Content) != 5 {
		t.Fatalf("got stop %q and %d blocks, want tool_use and 5", got.StopReason, len(got.Content))
	}
	if got.Content[0].Thinking != "first this, then that" || got.Content[0].Signature == "" {
		t.Errorf("thinking arrived as %q, signature %q", got.Content[0].Thinking, got.Content[0].Signature)
	}
	if got.Content[1].Data == "" {
		t.Error("redacted thinking has no data")
	}
	if got.Content[2].Text != "I will run two tools." {
		t.Errorf("text arrived as %q", got.Content[2].Text)
	}
	var back map[string]any
	if err := json.Unmarshal(got.Content[3].Input, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(input) {
		t.Errorf("input arrived as %s (%v), want %v", got.Content[3].Input, err, input)
	}
	if a, b := got.Content[3].ID, got.Content[4].ID; a == "" || a == b {
		t.Errorf("call ids are %q and %q", a, b)
	}
	if got.Usage.InputTokens == 0 || got.Usage.OutputTokens < 10 {
		t.Errorf("usage is %d in, %d out", got.Usage.InputTokens, got.Usage.OutputTokens)
	}
}

func TestSDKReadsPlainAnswer(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Reply(fakemodel.Text("hi"), fakemodel.ToolUse("bash", map[string]any{"command": "ls"})).Stopping("pause_turn"))
	got, err := client(s).Messages.New(deadline(t), ask())
	if err != nil {
		t.Fatal(err)
	}
	if got.Content[0].Text != "hi" || string(got.Content[1].Input) != `{"command":"ls"}` || got.StopReason != "pause_turn" {
		t.Errorf("got %s", got.RawJSON())
	}
}

func TestRefusalCarriesDetails(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("I").Refusing("cyber", "not this"))
	got, err := stream(deadline(t), client(s), ask())
	if err != nil {
		t.Fatal(err)
	}
	if got.StopReason != "refusal" || got.StopDetails.Category != "cyber" || got.StopDetails.Explanation != "not this" {
		t.Errorf("stop %q, details %+v", got.StopReason, got.StopDetails)
	}
}

// TestConversationComesBack replays a turn with thinking and parallel calls, as
// a client continues after running the tools.
func TestConversationComesBack(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(
		fakemodel.Reply(fakemodel.Thinking("hm"), fakemodel.ToolUse("bash", map[string]any{"command": "ls"}), fakemodel.ToolUse("bash", map[string]any{"command": "pwd"})),
		fakemodel.Say("done"),
	)
	ctx, c := deadline(t), client(s)
	first, err := stream(ctx, c, ask())
	if err != nil {
		t.Fatal(err)
	}
	second := ask(
		anthropic.NewUserMessage(anthropic.NewTextBlock("hello")),
		first.ToParam(),
		anthropic.NewUserMessage(
			anthropic.NewToolResultBlock(first.Content[1].ID, "a b", false),
			anthropic.NewToolResultBlock(first.Content[2].ID, "no such thing", true),
			anthropic.NewTextBlock("go on"),
		),
	)
	second.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024)
	if _, err := stream(ctx, c, second); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(ctx); err != nil {
		t.Fatal(err)
	}
	seen, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	results := seen.ToolResults()
	if r := results[first.Content[2].ID]; len(results) != 2 || !r.IsError || r.ResultText() != "no such thing" {
		t.Errorf("results seen: %+v", results)
	}
	if seen.LastText() != "go on" || !seen.Completed() {
		t.Errorf("last text %q, completed %t", seen.LastText(), seen.Completed())
	}
}

func TestStreamBreaks(t *testing.T) {
	whole := fakemodel.Say("one two three")
	tests := map[string]struct {
		turn    fakemodel.Turn
		want    string // prefix of the text that arrives
		wantErr bool
	}{
		"cut":         {whole.CutAfter(2), "one two ", true},
		"cut at once": {whole.CutAfter(fakemodel.BeforeHeader), "", true},
		"error event": {whole.ErrorAfter(1, "overloaded_error", "busy"), "one ", true},
		"garbage":     {whole.GarbageAfter(1), "one ", true},
		// The SDK does not notice this one; clients must.
		"ends early": {whole.EndAfter(whole.Deltas()), "one two three", false},
		"pings":      {whole.PingAfter(1, 3, time.Millisecond), "one two three", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := fakemodel.Start(t)
			s.Play(test.turn)
			got, err := stream(deadline(t), client(s), ask())
			if (err != nil) != test.wantErr {
				t.Errorf("error %v, want one: %t", err, test.wantErr)
			}
			var text string
			if len(got.Content) > 0 {
				text = got.Content[0].Text
			}
			if text != test.want {
				t.Errorf("text %q, want %q", text, test.want)
			}
			if request := s.Requests()[0]; request.Completed() != (name == "pings") {
				t.Errorf("completed: %t", request.Completed())
			}
		})
	}
}

func TestGateHoldsUntilOpened(t *testing.T) {
	s, ctx := fakemodel.Start(t), deadline(t)
	gate := fakemodel.NewGate()
	s.Play(fakemodel.Say("one two").HoldAfter(1, gate))
	events := client(s).Messages.NewStreaming(ctx, ask())
	defer events.Close()
	var text strings.Builder
	for events.Next() {
		piece := events.Current().Delta.Text
		text.WriteString(piece)
		if piece == "one " {
			<-gate.Reached()
			gate.Open()
		}
	}
	if err := events.Err(); err != nil || text.String() != "one two" {
		t.Errorf("text %q, error %v", text.String(), err)
	}
}

func TestGateSeesTheClientLeave(t *testing.T) {
	s, ctx := fakemodel.Start(t), deadline(t)
	gate := fakemodel.NewGate()
	s.Play(fakemodel.Say("one two").HoldAfter(fakemodel.BeforeHeader, gate))
	asking, leave := context.WithCancel(ctx)
	go func() {
		<-gate.Reached()
		leave()
	}()
	if _, err := stream(asking, client(s), ask()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the cancellation", err)
	}
	select {
	case <-gate.Gone():
	case <-ctx.Done():
		t.Fatal("the server did not notice that the client left")
	}
	if s.Requests()[0].Completed() {
		t.Error("an abandoned request counts as completed")
	}
}

func TestCloseEndsStalledStream(t *testing.T) {
	s := fakemodel.New()
	s.Play(fakemodel.Say("one two").StallAfter(1))
	events := client(s).Messages.NewStreaming(deadline(t), ask())
	defer events.Close()
	for events.Next() {
		if events.Current().Delta.Text == "one " {
			s.Close()
		}
	}
	if events.Err() == nil {
		t.Error("the stream ended without an error")
	}
}

func TestErrorAnswers(t *testing.T) {
	for status, want := range map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
		404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error",
	} {
		s := fakemodel.Start(t)
		s.Play(fakemodel.Fail(status, "because").RetryAfter(7 * time.Second))
		_, err := stream(deadline(t), client(s), ask())
		var answer *anthropic.Error
		if !errors.As(err, &answer) {
			t.Errorf("%d: error %v", status, err)
			continue
		}
		if answer.StatusCode != status || !strings.Contains(answer.RawJSON(), want) || answer.RequestID == "" {
			t.Errorf("%d: got %d %s", status, answer.StatusCode, answer.RawJSON())
		}
		if after := answer.Response.Header.Get("retry-after"); after != "7" {
			t.Errorf("%d: retry-after %q", status, after)
		}
	}
}

func TestGatewayPage(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Page(http.StatusBadGateway, "<h1>Bad gateway</h1>"))
	_, err := stream(deadline(t), client(s), ask())
	var answer *anthropic.Error
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusBadGateway || answer.Type() != "" {
		t.Errorf("error %v", err)
	}
}

func TestRespondAnswersWhenTheScriptIsOver(t *testing.T) {
	s := fakemodel.Start(t)
	s.Play(fakemodel.Say("scripted"))
	s.Respond(func(r *fakemodel.Request) fakemodel.Turn { return fakemodel.Say("echo " + r.LastText()) })
	for _, want := range []string{"scripted", "echo hello"} {
		got, err := stream(deadline(t), client(s), ask())
		if err != nil || got.Content[0].Text != want {
			t.Errorf("got %s (%v), want %q", got.RawJSON(), err, want)
		}
	}
}

// TestStrictness sends what the real service refuses.
func TestStrictness(t *testing.T) {
	const user = `{"role":"user","content":"hello"}`
	call := func(id string) string {
		return `{"role":"assistant","content":[{"type":"tool_use","id":"` + id + `","name":"bash","input":{}}]}`
	}
	result := func(id string) string { return `{"type":"tool_result","tool_use_id":"` + id + `","content":"ok"}` }
	body := func(messages ...string) string {
		return `{"model":"m","max_tokens":10,"messages":[` + strings.Join(messages, ",") + `]}`
	}
	with := func(field string) string {
		return `{"model":"m","max_tokens":10,"messages":[` + user + `],` + field + `}`
	}
	says := func(role string, blocks ...string) string {
		return `{"role":"` + role + `","content":[` + strings.Join(blocks, ",") + `]}`
	}
	marked := `{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}`
	tests := map[string]struct{ body, want string }{
		"no json":             {`{`, "not valid JSON"},
		"no model":            {`{"max_tokens":10,"messages":[` + user + `]}`, "model: Field required"},
		"no max_tokens":       {`{"model":"m","messages":[` + user + `]}`, "max_tokens: Field required"},
		"unknown field":       {with(`"colour":1`), "colour: Extra inputs"},
		"unknown block field": {body(says("user", `{"type":"text","text":"x","colour":1}`)), "messages.0.content.0.text.colour: Extra"},
		"no messages":         {body(), "at least one message"},
		"assistant first":     {body(says("assistant", `{"type":"text","text":"x"}`)), "first message must use"},
		"empty content":       {body(says("user")), "non-empty content"},
		"empty text":          {body(says("user", `{"type":"text","text":""}`)), "must be non-empty"},
		"blank text":          {body(says("user", `{"type":"text","text":" \n"}`)), "non-whitespace"},
		"call in user":        {body(says("user", `{"type":"tool_use","id":"a","name":"n","input":{}}`)), "does not match any"},
		"bad call id":         {body(user, call("a.b"), says("user", result("a.b"))), "should match pattern"},
		"input no object":     {body(user, says("assistant", `{"type":"tool_use","id":"a","name":"n","input":"x"}`), says("user", result("a"))), "valid dictionary"},
		"call unanswered":     {body(user, call("a")), "without `tool_result` blocks immediately after: a"},
		"one of two open":     {body(user, says("assistant", `{"type":"tool_use","id":"a","name":"n","input":{}}`, `{"type":"tool_use","id":"b","name":"n","input":{}}`), says("user", result("a"))), "immediately after: b"},
		"answer after text":   {body(user, call("a"), says("user", `{"type":"text","text":"x"}`, result("a"))), "immediately after: a"},
		"answered twice":      {body(user, call("a"), says("user", result("a"), result("a"))), "multiple `tool_result` blocks"},
		"answer to nothing":   {body(says("user", result("a"))), "unexpected `tool_use_id`"},
		"same id twice":       {body(user, call("a"), says("user", result("a")), call("a"), says("user", result("a"))), "ids must be unique"},
		"error with image":    {body(user, call("a"), says("user", `{"type":"tool_result","tool_use_id":"a","is_error":true,"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QUJD"}}]}`)), "all content must be type \"text\""},
		"bad media type":      {body(says("user", `{"type":"image","source":{"type":"base64","media_type":"image/bmp","data":"QUJD"}}`)), "media_type"},
		"forged thinking":     {body(user, says("assistant", `{"type":"thinking","thinking":"x","signature":"y"}`, `{"type":"text","text":"x"}`)), "Invalid `signature`"},
		"trailing space":      {body(user, says("assistant", `{"type":"text","text":"x "}`)), "trailing whitespace"},
		"small budget":        {with(`"thinking":{"type":"enabled","budget_tokens":5}`), "budget_tokens"},
		"bad effort":          {with(`"output_config":{"effort":"huge"}`), "output_config.effort"},
		"bad speed":           {with(`"speed":"warp"`), "speed"},
		"tool without schema": {with(`"tools":[{"name":"a"}]`), "input_schema: Field required"},
		"schema no object":    {with(`"tools":[{"name":"a","input_schema":{"type":"string"}}]`), "Input should be 'object'"},
		"tool twice":          {with(`"tools":[{"name":"a","input_schema":{"type":"object"}},{"name":"a","input_schema":{"type":"object"}}]`), "unique"},
		"bad tool name":       {with(`"tools":[{"name":"a b","input_schema":{"type":"object"}}]`), "should match pattern"},
		"five breakpoints":    {body(says("user", marked, marked, marked, marked, marked)), "maximum of 4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := fakemodel.New()
			defer s.Close()
			status, answer := post(t, s, test.body, map[string]string{"x-api-key": fakemodel.Key})
			if status != http.StatusBadRequest || !strings.Contains(answer.Error.Message, test.want) {
				t.Errorf("got %d %q, want 400 with %q", status, answer.Error.Message, test.want)
			}
			if answer.Error.Type != "invalid_request_error" || len(s.Problems()) != 1 || len(s.Requests()) != 0 {
				t.Errorf("type %q, problems %q", answer.Error.Type, s.Problems())
			}
		})
	}
}

func TestCredentialsAndHeaders(t *testing.T) {
	const good = `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"x"}]}`
	tests := map[string]struct {
		header map[string]string
		want   int
	}{
		"key":          {map[string]string{"x-api-key": fakemodel.Key}, 200},
		"bearer":       {map[string]string{"Authorization": "Bearer " + fakemodel.Key}, 200},
		"none":         {nil, 401},
		"wrong key":    {map[string]string{"x-api-key": "wrong"}, 401},
		"wrong bearer": {map[string]string{"Authorization": "Bearer wrong"}, 401},
		"no version":   {map[string]string{"x-api-key": fakemodel.Key, "anthropic-version": ""}, 400},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := fakemodel.New()
			defer s.Close()
			s.Play(fakemodel.Say("ok"))
			if status, answer := post(t, s, good, test.header); status != test.want {
				t.Errorf("got %d %q, want %d", status, answer.Error.Message, test.want)
			}
		})
	}
}

func TestScriptMistakesAreProblems(t *testing.T) {
	s := fakemodel.New()
	defer s.Close()
	s.Play(fakemodel.Say("one two").CutAfter(3))
	if _, err := stream(deadline(t), client(s), ask()); err != nil {
		t.Fatal(err)
	}
	if _, err := stream(deadline(t), client(s), ask()); err == nil {
		t.Error("a request without a turn was answered")
	}
	if problems := s.Problems(); len(problems) != 2 {
		t.Errorf("problems: %q, want one for the point past the end and one for the missing turn", problems)
	}
}

func TestPromptCacheIsAccounted(t *testing.T) {
	s := fakemodel.Start(t)
	s.Respond(func(*fakemodel.Request) fakemodel.Turn { return fakemodel.Say("ok") })
	ctx, c := deadline(t), client(s)
	params := ask()
	params.System = []anthropic.TextBlockParam{{Text: strings.Repeat("Be kind. ", 1000), CacheControl: anthropic.NewCacheControlEphemeralParam()}}
	first, err := stream(ctx, c, params)
	if err != nil {
		t.Fatal(err)
	}
	if first.Usage.CacheCreationInputTokens < 1024 || first.Usage.CacheReadInputTokens != 0 {
		t.Errorf("first: %d written, %d read", first.Usage.CacheCreationInputTokens, first.Usage.CacheReadInputTokens)
	}
	params.Messages = append(params.Messages, first.ToParam(), anthropic.NewUserMessage(anthropic.NewTextBlock("more")))
	second, err := stream(ctx, c, params)
	if err != nil {
		t.Fatal(err)
	}
	if second.Usage.CacheReadInputTokens != first.Usage.CacheCreationInputTokens || second.Usage.CacheCreationInputTokens != 0 {
		t.Errorf("second: %d written, %d read", second.Usage.CacheCreationInputTokens, second.Usage.CacheReadInputTokens)
	}
	params.System[0].Text += "!"
	third, err := stream(ctx, c, params)
	if err != nil {
		t.Fatal(err)
	}
	if third.Usage.CacheReadInputTokens != 0 {
		t.Errorf("a changed prompt read %d tokens from the cache", third.Usage.CacheReadInputTokens)
	}
}

type envelope struct {
	Error struct{ Type, Message string }
}

func post(t *testing.T, s *fakemodel.Server, body string, header map[string]string) (int, envelope) {
	t.Helper()
	request, err := http.NewRequestWithContext(deadline(t), http.MethodPost, s.URL()+"/v1/messages", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("anthropic-version", "2023-06-01")
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer envelope
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatalf("answer %q: %v", raw, err)
	}
	return response.StatusCode, answer
}
