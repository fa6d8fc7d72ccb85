package fakemodel

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// inputPiece is the length in runes of the pieces a tool input is streamed in:
// short and odd, so that pieces end inside names, numbers and escapes.
const inputPiece = 7

// player answers one request with one turn.
type player struct {
	server  *Server
	w       http.ResponseWriter
	r       *http.Request
	request *Request
	turn    Turn
	sent    int // deltas sent so far
}

func (p *player) play() {
	// Ids are given here and not in the script, so that a turn can be played twice.
	p.turn.blocks = slices.Clone(p.turn.blocks)
	for i, b := range p.turn.blocks {
		if b.Type == "tool_use" && b.ID == "" {
			p.turn.blocks[i].ID = p.server.id("toolu")
		}
	}
	p.checkBreaks()
	if !p.reach(BeforeHeader) {
		return
	}
	switch {
	case p.turn.status != 0:
		writeError(p.w, p.turn)
		p.request.complete = true
	case p.request.Stream:
		p.request.complete = p.stream()
	default:
		p.w.Header().Set("Content-Type", "application/json")
		err := json.NewEncoder(p.w).Encode(p.message(true))
		p.request.complete = err == nil
	}
}

// checkBreaks complains about points the turn never comes to; a test that
// relies on one would test nothing.
func (p *player) checkBreaks() {
	last := p.turn.Deltas()
	if !p.request.Stream || p.turn.status != 0 {
		last = BeforeHeader
	}
	for _, b := range p.turn.breaks {
		if b.after > last {
			p.server.problem("script: a turn breaks after delta %d, but its last is %d", b.after, last)
		}
	}
}

// reach does what the script wants at a point, and reports whether the stream goes on.
func (p *player) reach(point int) bool {
	for _, b := range p.turn.breaks {
		if b.after == point && !b.do(p) {
			return false
		}
	}
	return true
}

// stream sends the whole turn as events and reports whether it got to the end.
func (p *player) stream() bool {
	p.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	p.w.Header().Set("Cache-Control", "no-cache")
	p.w.WriteHeader(http.StatusOK)

	if !p.send("message_start", map[string]any{"type": "message_start", "message": p.message(false)}) || !p.reach(0) {
		return false
	}
	for i, b := range p.turn.blocks {
		if !p.block(i, b) {
			return false
		}
	}
	return p.send("message_delta", map[string]any{
		"type":  "message_delta",
		"delta": map[string]any{"stop_reason": p.turn.stop, "stop_sequence": nil, "stop_details": p.details()},
		"usage": p.usage(p.turn.outputTokens()),
	}) && p.send("message_stop", map[string]any{"type": "message_stop"})
}

func (p *player) block(i int, b Block) bool {
	start := map[string]any{"type": "content_block_start", "index": i, "content_block": opening(b)}
	if !p.send("content_block_start", start) {
		return false
	}
	if i == 0 && !p.send("ping", map[string]any{"type": "ping"}) {
		return false
	}
	for _, d := range deltas(b) {
		delta := map[string]any{"type": "content_block_delta", "index": i, "delta": d}
		if !p.send("content_block_delta", delta) {
			return false
		}
		p.sent++
		if !p.reach(p.sent) {
			return false
		}
	}
	return p.send("content_block_stop", map[string]any{"type": "content_block_stop", "index": i})
}

// message is the message object: complete, or as message_start shows it.
func (p *player) message(complete bool) map[string]any {
	m := map[string]any{
		"id": p.server.id("msg"), "type": "message", "role": "assistant", "model": p.request.Model,
		"content": []any{}, "stop_reason": nil, "stop_sequence": nil, "stop_details": nil,
		"usage": p.usage(1),
	}
	if complete {
		content := make([]any, len(p.turn.blocks))
		for i, b := range p.turn.blocks {
			content[i] = whole(b)
		}
		m["content"], m["stop_reason"], m["stop_details"] = content, p.turn.stop, p.details()
		m["usage"] = p.usage(p.turn.outputTokens())
	}
	return m
}

func (p *player) details() any {
	if p.turn.details == nil {
		return nil
	}
	return p.turn.details
}

func (p *player) usage(output int) map[string]any {
	u := p.request.usage
	return map[string]any{
		"input_tokens": u.Input, "output_tokens": output,
		"cache_creation_input_tokens": u.CacheWritten, "cache_read_input_tokens": u.CacheRead,
		"cache_creation": map[string]any{"ephemeral_5m_input_tokens": u.CacheWritten, "ephemeral_1h_input_tokens": 0},
		"service_tier":   "standard",
	}
}

// send writes one event and reports whether the client could still be reached.
func (p *player) send(event string, data any) bool {
	encoded, err := json.Marshal(data)
	if err != nil {
		p.server.problem("script: event %s: %v", event, err)
		return false
	}
	return p.sendRaw(event, string(encoded))
}

func (p *player) sendRaw(event, data string) bool {
	if _, err := io.WriteString(p.w, fmt.Sprintf("event: %s\ndata: %s\n\n", event, data)); err != nil {
		return false
	}
	return http.NewResponseController(p.w).Flush() == nil
}

// opening is a block as content_block_start shows it.
func opening(b Block) map[string]any {
	switch b.Type {
	case "thinking":
		return map[string]any{"type": "thinking", "thinking": "", "signature": ""}
	case "redacted_thinking":
		return map[string]any{"type": "redacted_thinking", "data": b.Data}
	case "tool_use":
		return map[string]any{"type": "tool_use", "id": b.ID, "name": b.Name, "input": map[string]any{}}
	default:
		return map[string]any{"type": "text", "text": ""}
	}
}

// whole is a block as a message that is not streamed shows it.
func whole(b Block) map[string]any {
	shown := opening(b)
	switch b.Type {
	case "thinking":
		shown["thinking"], shown["signature"] = b.Thinking, b.Signature
	case "tool_use":
		shown["input"] = b.Input
	case "text":
		shown["text"] = b.Text
	}
	return shown
}

// deltas are the pieces a block is streamed in.
func deltas(b Block) []map[string]any {
	var all []map[string]any
	switch b.Type {
	case "text":
		for _, piece := range words(b.Text) {
			all = append(all, map[string]any{"type": "text_delta", "text": piece})
		}
	case "thinking":
		for _, piece := range words(b.Thinking) {
			all = append(all, map[string]any{"type": "thinking_delta", "thinking": piece})
		}
		all = append(all, map[string]any{"type": "signature_delta", "signature": b.Signature})
	case "tool_use":
		all = append(all, map[string]any{"type": "input_json_delta", "partial_json": ""})
		for piece := range slices.Chunk([]rune(string(b.Input)), inputPiece) {
			all = append(all, map[string]any{"type": "input_json_delta", "partial_json": string(piece)})
		}
	}
	return all
}

func words(text string) []string {
	if text == "" {
		return nil
	}
	return strings.SplitAfter(text, " ")
}
