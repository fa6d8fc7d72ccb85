package api

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/test/fakemodel"
	"hearth/test/run"
)

// TestMessages calls every method of models and messages, beta and not, with the
// server's address and key: in whole and as streams, with tools and errors.
func TestMessages(t *testing.T) {
	model := fakemodel.New() // which TypeScript asks for what it must refuse
	t.Cleanup(model.Close)
	model.Respond(answerAs)
	each(t, func(t *testing.T, s *server) {
		ctx := t.Context()
		params := ask("say hello")
		whole, err := s.SDK.Messages.New(ctx, params)
		must(t, err)
		if whole.Content[0].Text != "hello there" || whole.Usage.OutputTokens == 0 {
			t.Errorf("said %s", whole.RawJSON())
		}
		streamed(t, s, params)
		toolUse(t, s)
		count, err := s.SDK.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: "fake-1", Messages: params.Messages})
		must(t, err)
		if count.InputTokens == 0 {
			t.Error("a message counts no tokens")
		}
		for words, status := range map[string]int{"fail 429": 429, "fail 529": 529, "fail 400": 400} {
			_, err := s.SDK.Messages.New(ctx, ask(words))
			var wire *anthropic.Error
			if !errors.As(err, &wire) || wire.StatusCode != status || status == 429 && wire.Response.Header.Get("retry-after") != "7" {
				t.Errorf("%s: %v", words, err)
			}
		}
		betaMessages(t, s)
		listModels(t, s)
		s.typeScript("models.mjs")
	}, "HEARTH_MODEL_API_KEY="+fakemodel.Key, "--model-base-url", model.URL())
}

func ask(words string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{Model: "fake-1", MaxTokens: 100, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(words))}}
}

// answerAs answers as the message asks for.
func answerAs(r *fakemodel.Request) fakemodel.Turn {
	switch words := r.LastText(); words {
	case "fail 429":
		return fakemodel.Fail(429, words).RetryAfter(7 * time.Second)
	case "fail 529":
		return fakemodel.Fail(529, words)
	case "fail 400":
		return fakemodel.Fail(400, words)
	case "fail inside":
		return fakemodel.Say("one two").ErrorAfter(1, "overloaded_error", words)
	case "stall":
		return fakemodel.Say("one two").StallAfter(1)
	case "cut":
		return fakemodel.Say("one two").CutAfter(1)
	case "use a tool":
		return fakemodel.Call("weather", map[string]any{"city": "Oslo"})
	}
	return fakemodel.Say("hello there")
}

// readStream reads a stream to its end.
func readStream(ctx context.Context, s *server, params anthropic.MessageNewParams, on func()) (message anthropic.Message, err error) {
	stream := s.SDK.Messages.NewStreaming(ctx, params)
	defer stream.Close()
	for stream.Next() {
		if err := message.Accumulate(stream.Current()); err != nil {
			return message, err
		}
		if stream.Current().Type == "content_block_delta" && on != nil {
			on()
		}
	}
	return message, stream.Err()
}

func streamed(t *testing.T, s *server, params anthropic.MessageNewParams) {
	t.Helper()
	message, err := readStream(t.Context(), s, params, nil)
	must(t, err)
	if message.Content[0].Text != "hello there" || message.Usage.OutputTokens == 0 || message.StopReason != "end_turn" {
		t.Errorf("streamed %+v", message)
	}
	for _, words := range []string{"fail inside", "cut"} {
		if _, err := readStream(t.Context(), s, ask(words), nil); err == nil {
			t.Errorf("%s: the stream ended well", words)
		}
	}
	leaving, leave := context.WithTimeout(t.Context(), run.Patience)
	defer leave()
	if _, err := readStream(leaving, s, ask("stall"), leave); !errors.Is(err, context.Canceled) {
		t.Errorf("a stream that was left: %v", err)
	}
}

func toolUse(t *testing.T, s *server) {
	t.Helper()
	params := ask("use a tool")
	params.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "weather", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}}}}}
	message, err := readStream(t.Context(), s, params, nil)
	must(t, err)
	if message.StopReason != "tool_use" || string(message.Content[0].Input) != `{"city":"Oslo"}` {
		t.Errorf("called %+v", message)
	}
	params.Messages = append(params.Messages, message.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(message.Content[0].ID, "rain", false)))
	if message, err = readStream(t.Context(), s, params, nil); err != nil || message.Content[0].Text != "hello there" {
		t.Errorf("after the result: %+v, %v", message, err)
	}
}

func betaMessages(t *testing.T, s *server) {
	t.Helper()
	messages := []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("say hello"))}
	params := anthropic.BetaMessageNewParams{Model: "fake-1", MaxTokens: 100, Messages: messages, Betas: []anthropic.AnthropicBeta{"a-beta"}}
	whole, err := s.SDK.Beta.Messages.New(t.Context(), params)
	must(t, err)
	if whole.Content[0].Text != "hello there" {
		t.Errorf("said %s", whole.RawJSON())
	}
	stream := s.SDK.Beta.Messages.NewStreaming(t.Context(), params)
	n := 0
	for ; stream.Next(); n++ {
	}
	if n == 0 || stream.Err() != nil {
		t.Errorf("%d events, %v", n, stream.Err())
	}
	if _, err := s.SDK.Beta.Messages.CountTokens(t.Context(), anthropic.BetaMessageCountTokensParams{Model: "fake-1", Messages: messages}); err != nil {
		t.Error(err)
	}
}

func listModels(t *testing.T, s *server) {
	t.Helper()
	seen := 0
	for all := s.SDK.Beta.Models.ListAutoPaging(t.Context(), anthropic.BetaModelListParams{Limit: anthropic.Int(1)}); all.Next(); seen++ {
		if all.Current().ID != fakemodel.Models[seen] {
			t.Errorf("model %d is %s", seen, all.Current().ID)
		}
	}
	if seen != len(fakemodel.Models) {
		t.Errorf("listed %d models", seen)
	}
	one, err := s.SDK.Beta.Models.Get(t.Context(), "fake-2", anthropic.BetaModelGetParams{})
	must(t, err)
	plain, err := s.SDK.Models.Get(t.Context(), "fake-2", anthropic.ModelGetParams{})
	must(t, err)
	if one.ID != "fake-2" || plain.ID != "fake-2" {
		t.Errorf("got %s and %s", one.RawJSON(), plain.RawJSON())
	}
	page, err := s.SDK.Models.List(t.Context(), anthropic.ModelListParams{BeforeID: anthropic.String("fake-1")})
	must(t, err)
	if len(page.Data) != 2 {
		t.Errorf("before the last: %s", page.RawJSON())
	}
}

// TestRehearsalModels: a server without a model says so.
func TestRehearsalModels(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		page, err := s.SDK.Models.List(t.Context(), anthropic.ModelListParams{})
		must(t, err)
		if len(page.Data) != 1 || page.Data[0].ID != "rehearsal" {
			t.Errorf("listed %s", page.RawJSON())
		}
		_, err = s.SDK.Messages.New(t.Context(), ask("hello"))
		var wire *anthropic.Error
		if !errors.As(err, &wire) || wire.StatusCode != 404 {
			t.Errorf("a message to rehearsal: %v", err)
		}
	})
}
