package fakemodel

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BeforeHeader is the point before the response header is sent, for the
// methods of [Turn] that act at a point of the stream.
const BeforeHeader = -1

// Turn is one scripted answer. Its methods return an altered copy, so turns can
// be built in one expression and, unless they hold a [Gate], played many times.
//
// Methods named …After act at a point counted in deltas: 0 is right after
// message_start, n right after the n-th content_block_delta, [BeforeHeader]
// before anything is sent.
type Turn struct {
	blocks  []Block
	stop    string
	details map[string]any
	breaks  []pointBreak

	status    int // not 0 when the answer is an error
	errorType string
	message   string
	page      string
	header    map[string]string
}

// pointBreak is something that happens at a point of the stream. It reports
// whether the stream goes on.
type pointBreak struct {
	after int
	do    func(*player) bool
}

// Reply answers with blocks. The stop reason is tool_use if one of them is a
// tool call, else end_turn.
func Reply(blocks ...Block) Turn {
	turn := Turn{blocks: blocks, stop: "end_turn"}
	if slices.ContainsFunc(blocks, func(b Block) bool { return b.Type == "tool_use" }) {
		turn.stop = "tool_use"
	}
	return turn
}

// Say answers with one text block and ends the turn.
func Say(text string) Turn { return Reply(Text(text)) }

// Call answers with one tool call.
func Call(name string, input any) Turn { return Reply(ToolUse(name, input)) }

// Fail answers with an HTTP error in the service's envelope; the error type
// follows from the status.
func Fail(status int, message string) Turn {
	types := map[int]string{
		http.StatusBadRequest:            "invalid_request_error",
		http.StatusUnauthorized:          "authentication_error",
		http.StatusPaymentRequired:       "billing_error",
		http.StatusForbidden:             "permission_error",
		http.StatusNotFound:              "not_found_error",
		http.StatusRequestEntityTooLarge: "request_too_large",
		http.StatusTooManyRequests:       "rate_limit_error",
		http.StatusGatewayTimeout:        "timeout_error",
		529:                              "overloaded_error",
	}
	errorType, known := types[status]
	switch {
	case known:
	case status < http.StatusInternalServerError:
		errorType = "invalid_request_error"
	default:
		errorType = "api_error"
	}
	return Turn{status: status, errorType: errorType, message: message}
}

// Page answers with an error page that is no JSON, as a gateway in front of the
// service would.
func Page(status int, html string) Turn {
	turn := Fail(status, "")
	turn.page = html
	return turn
}

// Stopping sets the stop reason, such as max_tokens or pause_turn.
func (t Turn) Stopping(reason string) Turn {
	t.stop = reason
	return t
}

// Refusing makes the turn stop with a refusal. An empty category or explanation
// is sent as null.
func (t Turn) Refusing(category, explanation string) Turn {
	t.stop = "refusal"
	t.details = map[string]any{"type": "refusal", "category": nullable(category), "explanation": nullable(explanation)}
	return t
}

// RetryAfter adds a retry-after header, which counts whole seconds.
func (t Turn) RetryAfter(d time.Duration) Turn {
	t.header = maps.Clone(t.header)
	if t.header == nil {
		t.header = make(map[string]string)
	}
	t.header["retry-after"] = strconv.Itoa(int(d / time.Second))
	return t
}

// HoldAfter holds the stream until the gate opens.
func (t Turn) HoldAfter(n int, gate *Gate) Turn {
	return t.at(n, func(p *player) bool { return gate.hold(p.r.Context(), p.server.closing) })
}

// StallAfter sends nothing more and keeps the connection open until the client
// leaves or the server closes.
func (t Turn) StallAfter(n int) Turn {
	return t.at(n, func(p *player) bool { return NewGate().hold(p.r.Context(), p.server.closing) })
}

// PingAfter sends count pings, every apart, before the stream goes on: what a
// client sees while a model thinks for long.
func (t Turn) PingAfter(n, count int, every time.Duration) Turn {
	return t.at(n, func(p *player) bool {
		for range count {
			if !rest(p.r.Context(), p.server.closing, every) || !p.send("ping", map[string]any{"type": "ping"}) {
				return false
			}
		}
		return true
	})
}

// CutAfter breaks the connection, as a crashed proxy would.
func (t Turn) CutAfter(n int) Turn {
	return t.at(n, func(*player) bool { panic(http.ErrAbortHandler) })
}

// EndAfter ends the response cleanly though the message is not complete.
func (t Turn) EndAfter(n int) Turn {
	return t.at(n, func(*player) bool { return false })
}

// ErrorAfter ends the stream with an error event, such as overloaded_error.
func (t Turn) ErrorAfter(n int, errorType, message string) Turn {
	return t.at(n, func(p *player) bool {
		p.send("error", map[string]any{"type": "error", "error": map[string]any{"type": errorType, "message": message}})
		return false
	})
}

// GarbageAfter ends the stream with an event whose data is no JSON.
func (t Turn) GarbageAfter(n int) Turn {
	return t.at(n, func(p *player) bool {
		p.sendRaw("content_block_delta", `{"type":"content_block_de`)
		return false
	})
}

// Deltas is the number of content_block_delta events the turn has.
func (t Turn) Deltas() int {
	n := 0
	for _, b := range t.blocks {
		n += len(deltas(b))
	}
	return n
}

func (t Turn) at(n int, do func(*player) bool) Turn {
	t.breaks = append(slices.Clip(t.breaks), pointBreak{n, do})
	return t
}

// Text is a text block of a reply.
func Text(text string) Block { return Block{Type: "text", Text: text} }

// Thinking is a thinking block of a reply, signed so that the server can tell
// whether it comes back unaltered.
func Thinking(text string) Block {
	return Block{Type: "thinking", Thinking: text, Signature: seal("thinking", text)}
}

// RedactedThinking is a block of thinking that only the server can read.
func RedactedThinking(secret string) Block {
	hidden := base64.StdEncoding.EncodeToString([]byte(secret))
	return Block{Type: "redacted_thinking", Data: hidden + "." + seal("redacted", hidden)}
}

// ToolUse is a tool call of a reply; the server gives it an id. The input is
// marshalled, or sent as it is when it is a json.RawMessage, valid or not.
func ToolUse(name string, input any) Block {
	raw, verbatim := input.(json.RawMessage)
	if !verbatim {
		var err error
		if raw, err = json.Marshal(input); err != nil {
			panic(fmt.Sprintf("fakemodel: input of tool %s: %v", name, err)) // a mistake in the test itself
		}
	}
	return Block{Type: "tool_use", Name: name, Input: raw}
}

// seal is what makes an altered thinking block recognisable.
func seal(kind, text string) string {
	sum := sha256.Sum256([]byte("fakemodel " + kind + "\x00" + text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// genuine reports whether a thinking block came from a fake model, unaltered.
func genuine(b Block) bool {
	if b.Type == "thinking" {
		return b.Signature == seal("thinking", b.Thinking)
	}
	hidden, sum, _ := strings.Cut(b.Data, ".")
	return sum == seal("redacted", hidden)
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
