// Package anthropic asks models through the Messages API with the official SDK:
// Anthropic's own service, or any gateway that speaks it.
package anthropic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/shared"

	"hearth/api"
	"hearth/internal/brain/model"
)

// Config of an Adapter.
type Config struct {
	BaseURL string // default: the provider's own
	APIKey  string
	// AuthToken is sent as a bearer token instead of the key, for gateways.
	AuthToken string
	// MaxTokens bounds one reply. Default 16384.
	MaxTokens int64
	// IdleTimeout is how long a stream may be silent. Default 2 minutes.
	IdleTimeout time.Duration
	// HTTPClient is used for every request. Default: one with no overall time-out.
	HTTPClient *http.Client
}

// Adapter implements model.Adapter.
type Adapter struct {
	cfg    Config
	client anthropic.Client
}

// New makes an adapter. It makes no request.
func New(cfg Config) *Adapter {
	if cfg.MaxTokens == 0 {
		cfg.MaxTokens = 16384
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 2 * time.Minute
	}
	options := []option.RequestOption{
		option.WithoutEnvironmentDefaults(),
		option.WithMaxRetries(0), // the loop decides, and makes retries visible
	}
	if cfg.BaseURL != "" {
		options = append(options, option.WithBaseURL(cfg.BaseURL))
	}
	if cfg.AuthToken != "" {
		options = append(options, option.WithAuthToken(cfg.AuthToken))
	} else {
		options = append(options, option.WithAPIKey(cfg.APIKey))
	}
	if cfg.HTTPClient != nil {
		options = append(options, option.WithHTTPClient(cfg.HTTPClient))
	}
	return &Adapter{cfg: cfg, client: anthropic.NewClient(options...)}
}

// Name implements model.Adapter.
func (a *Adapter) Name() string { return "anthropic" }

var errIdle = errors.New("the model's stream went silent")

// Stream implements model.Adapter.
func (a *Adapter) Stream(ctx context.Context, r model.Request, on func(model.Delta)) (model.Reply, error) {
	body, err := a.body(r)
	if err != nil {
		return model.Reply{}, &model.Error{Type: api.SessionErrorModelRequestFailed, Message: err.Error()}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(a.cfg.IdleTimeout, func() { cancel(errIdle) })
	defer silence.Stop()

	stream := a.client.Messages.NewStreaming(ctx, anthropic.MessageNewParams{}, option.WithRequestBody("application/json", body),
		// The SDK keeps pings to itself, so silence is told from what is read.
		option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			answer, err := next(r)
			if answer != nil && answer.Body != nil {
				answer.Body = &heard{answer.Body, func() { silence.Reset(a.cfg.IdleTimeout) }}
			}
			return answer, err
		}))
	defer stream.Close()
	var message anthropic.Message
	broken := map[int]json.RawMessage{}
	stopped := false
	for stream.Next() {
		event := stream.Current()
		if i := int(event.Index); event.Type == "content_block_stop" && i < len(message.Content) && !validInput(message.Content[i].Input) {
			// The SDK puts {} in the place of an input that is cut off.
			broken[i] = slices.Clone(message.Content[i].Input)
		}
		if err := message.Accumulate(event); err != nil {
			return reply(message, broken), model.Failure(0, "the model's stream is malformed: "+err.Error(), 0)
		}
		if d, ok := delta(event, message); ok {
			on(d)
		}
		stopped = stopped || event.Type == "message_stop"
	}
	if err := stream.Err(); err != nil {
		return reply(message, broken), a.failure(ctx, err)
	}
	if !stopped {
		return reply(message, broken), model.Failure(0, "the model's stream ended early", 0)
	}
	return reply(message, broken), nil
}

func validInput(input json.RawMessage) bool { return len(input) == 0 || json.Valid(input) }

// heard is a response body that tells when something was read from it.
type heard struct {
	io.ReadCloser
	on func()
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if n > 0 {
		h.on()
	}
	return n, err
}

// cached marks the end of a prefix that the next request will share.
var cached = map[string]string{"type": "ephemeral"}

// wireBlock is a block as the Messages API takes it: it may carry a cache mark,
// and thinking names its text even when that is empty.
type wireBlock struct {
	model.Block
	Thinking     *string           `json:"thinking,omitempty"`
	CacheControl map[string]string `json:"cache_control,omitempty"`
}

// body is the request as the Messages API has it. The system prompt with the
// tools before it, and the conversation so far, are marked for the cache.
func (a *Adapter) body(r model.Request) ([]byte, error) {
	type message struct {
		Role    string      `json:"role"`
		Content []wireBlock `json:"content"`
	}
	messages := make([]message, len(r.Messages))
	for i, m := range r.Messages {
		messages[i].Role = m.Role
		for _, b := range m.Content {
			block := wireBlock{Block: b}
			if b.Type == model.BlockThinking {
				block.Thinking = &b.Thinking
			}
			messages[i].Content = append(messages[i].Content, block)
		}
	}
	if n := len(messages); n > 0 && len(messages[n-1].Content) > 0 {
		last := messages[n-1].Content
		last[len(last)-1].CacheControl = cached
	}
	body := map[string]any{
		"model": r.Model.ID, "max_tokens": a.cfg.MaxTokens, "messages": messages, "stream": true,
	}
	if r.System != "" {
		body["system"] = []any{map[string]any{"type": "text", "text": r.System, "cache_control": cached}}
	}
	if len(r.Tools) > 0 {
		body["tools"] = r.Tools
	}
	if r.Model.Effort != nil {
		body["output_config"] = map[string]any{"effort": r.Model.Effort.Type}
	}
	if r.Model.Speed == "fast" {
		body["speed"] = r.Model.Speed
	}
	if r.Model.InferenceGeo != "" {
		body["inference_geo"] = r.Model.InferenceGeo
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode a model request: %w", err)
	}
	return raw, nil
}

// delta is what of an event can be previewed.
func delta(event anthropic.MessageStreamEventUnion, message anthropic.Message) (model.Delta, bool) {
	d := model.Delta{Index: int(event.Index)}
	switch event.Type {
	case "content_block_start":
		d.Type, d.Text = event.ContentBlock.Type, event.ContentBlock.Text
		return d, true
	case "content_block_delta":
		if d.Index < len(message.Content) && event.Delta.Text != "" {
			d.Type, d.Text = message.Content[d.Index].Type, event.Delta.Text
			return d, true
		}
	}
	return d, false
}

// reply is the message as the loop knows it. Broken holds the inputs of calls
// that are no JSON, by block.
func reply(m anthropic.Message, broken map[int]json.RawMessage) model.Reply {
	out := model.Reply{
		StopReason: string(m.StopReason),
		Usage: api.ModelUsage{
			InputTokens: m.Usage.InputTokens, OutputTokens: m.Usage.OutputTokens,
			CacheCreationInputTokens: m.Usage.CacheCreationInputTokens, CacheReadInputTokens: m.Usage.CacheReadInputTokens,
			CacheWrite1h: m.Usage.CacheCreation.Ephemeral1hInputTokens, Speed: speed(m.Usage.Speed),
			WebSearches: m.Usage.ServerToolUse.WebSearchRequests, WebFetches: m.Usage.ServerToolUse.WebFetchRequests,
		},
	}
	if m.StopReason == anthropic.StopReasonRefusal {
		out.Refusal = &api.RefusalDetails{Type: "refusal", Category: known(string(m.StopDetails.Category)), Explanation: known(m.StopDetails.Explanation)}
	}
	for i, b := range m.Content {
		block := model.Block{
			Type: b.Type, Text: b.Text, ID: b.ID, Name: b.Name, Input: b.Input,
			Thinking: b.Thinking, Signature: b.Signature, Data: b.Data,
		}
		if b.Type != model.BlockToolUse {
			block.Input = nil
		} else if input, ok := broken[i]; ok {
			block.Input = input
		}
		out.Blocks = append(out.Blocks, block)
	}
	return out
}

// speed is what a request was served at; other words than the two known are no
// part of the contract.
func speed(s anthropic.UsageSpeed) string {
	if s == anthropic.UsageSpeedStandard || s == anthropic.UsageSpeedFast {
		return string(s)
	}
	return ""
}

func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// statusOf gives the status of an error that came inside a stream, which
// carries a type only.
var statusOf = map[shared.ErrorType]int{
	shared.ErrorTypeRateLimitError:      http.StatusTooManyRequests,
	shared.ErrorTypeOverloadedError:     529,
	shared.ErrorTypeTimeoutError:        http.StatusRequestTimeout,
	shared.ErrorTypeInvalidRequestError: http.StatusBadRequest,
	shared.ErrorTypeAuthenticationError: http.StatusUnauthorized,
	shared.ErrorTypePermissionError:     http.StatusForbidden,
	shared.ErrorTypeNotFoundError:       http.StatusNotFound,
	shared.ErrorTypeBillingError:        http.StatusPaymentRequired,
}

// failure turns an error of the SDK into ours. Its own text quotes the request,
// so only the provider's message is kept, without the credential, which some
// gateways quote.
func (a *Adapter) failure(ctx context.Context, err error) error {
	var wire *anthropic.Error
	if errors.As(err, &wire) {
		status := wire.StatusCode
		var body api.ErrorEnvelope
		message := "the provider gave no reason"
		if json.Unmarshal([]byte(wire.RawJSON()), &body) == nil && body.Error != nil {
			message = body.Error.Message
			if status < 400 { // inside a stream
				status = http.StatusInternalServerError
				if s, ok := statusOf[shared.ErrorType(body.Error.Type)]; ok {
					status = s
				}
			}
		}
		if status == http.StatusUnauthorized || status == http.StatusForbidden {
			message = "the provider refused the operator's credential: " + message
		}
		return model.Failure(status, a.discreet(message), retryAfter(wire.Response))
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return model.Failure(0, a.discreet("no answer from the provider: "+err.Error()), 0)
}

// discreet takes the credential out of a text.
func (a *Adapter) discreet(text string) string {
	for _, secret := range []string{a.cfg.APIKey, a.cfg.AuthToken} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[credential]")
		}
	}
	return text
}

func retryAfter(r *http.Response) time.Duration {
	if r == nil {
		return 0
	}
	if ms, err := strconv.ParseFloat(r.Header.Get("retry-after-ms"), 64); err == nil && ms > 0 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	if s, err := strconv.ParseFloat(r.Header.Get("retry-after"), 64); err == nil && s > 0 {
		return time.Duration(s * float64(time.Second))
	}
	return 0
}
