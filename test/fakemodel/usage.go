package fakemodel

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
)

const (
	// bytesPerToken turns lengths into tokens; a rough guess, but the same in every run.
	bytesPerToken = 4
	// cacheFloor is the number of tokens below which a prompt is not cached.
	cacheFloor = 1024
	// cacheLookback is how many blocks before a breakpoint are tried for a hit.
	cacheLookback = 20
)

// Usage is what a request cost on the input side, in tokens. The three do not overlap.
type Usage struct {
	Input        int // neither read from the cache nor written to it
	CacheRead    int
	CacheWritten int
}

// prefix is a prompt up to and with one of its blocks.
type prefix struct {
	key        [32]byte
	tokens     int
	breakpoint bool
}

// account works out the usage as prompt caching would have it: the longest
// known prefix near a breakpoint is read, what follows up to the last
// breakpoint is written. The caller holds s.mu.
func (s *Server) account(r *Request) Usage {
	prompt := prefixes(r)
	last := -1
	for i, p := range prompt {
		if p.breakpoint && p.tokens >= cacheFloor {
			last = i
		}
	}
	total := prompt[len(prompt)-1].tokens
	if last < 0 {
		return Usage{Input: total}
	}
	read := 0
	for i, p := range prompt {
		if !p.breakpoint {
			continue
		}
		for j := max(0, i-cacheLookback+1); j <= i; j++ {
			if _, known := s.cache[prompt[j].key]; known {
				read = max(read, prompt[j].tokens)
			}
		}
	}
	for _, p := range prompt[:last+1] {
		if p.breakpoint && p.tokens >= cacheFloor {
			s.cache[p.key] = struct{}{}
		}
	}
	written := max(0, prompt[last].tokens-read)
	return Usage{Input: total - read - written, CacheRead: read, CacheWritten: written}
}

// prefixes lists a request's prompt in the order the cache sees it: tools,
// system, messages. Breakpoints themselves are no part of what is compared.
func prefixes(r *Request) []prefix {
	var all []prefix
	sum, tokens := sha256.New(), 0
	add := func(kind string, raw json.RawMessage, breakpoint bool) {
		content := withoutBreakpoints(raw)
		sum.Write([]byte(kind + "\x00"))
		sum.Write(content)
		tokens += 1 + len(content)/bytesPerToken
		p := prefix{tokens: tokens, breakpoint: breakpoint}
		sum.Sum(p.key[:0])
		all = append(all, p)
	}
	add("model", json.RawMessage(`"`+r.Model+`"`), false)
	for _, t := range r.Tools {
		add("tool", t.raw, t.CacheControl != nil)
	}
	for _, b := range r.System {
		add("system", b.raw, b.CacheControl != nil)
	}
	for _, m := range r.Messages {
		for _, b := range m.Content {
			add(m.Role, b.raw, b.CacheControl != nil)
		}
	}
	if r.cacheLast { // automatic caching puts a breakpoint on the last block
		all[len(all)-1].breakpoint = true
	}
	return all
}

// withoutBreakpoints re-encodes a block without its cache_control, with its
// fields in a fixed order, so that moving a breakpoint does not look like a change.
func withoutBreakpoints(raw json.RawMessage) []byte {
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return raw // a plain string
	}
	delete(fields, "cache_control")
	encoded, err := json.Marshal(fields)
	if err != nil {
		return raw
	}
	return encoded
}

// outputTokens is the cost of a reply.
func (t Turn) outputTokens() int {
	size := 0
	for _, b := range t.blocks {
		size += len(b.Text) + len(b.Thinking) + len(b.Data) + len(b.Input)
	}
	return 1 + size/bytesPerToken
}
