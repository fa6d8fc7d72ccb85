// Package modeltest is the suite that every model adapter passes: what the
// agent loop relies on, whatever thinks behind it. It is for tests only.
package modeltest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/model"
)

// Fixture is an adapter with requests whose replies are known in kind.
type Fixture struct {
	Adapter model.Adapter
	// Speak is answered with text that ends the turn, however often it is asked.
	Speak model.Request
	// Call is answered with one reply that calls bash and read, once.
	Call model.Request
}

// Run runs the suite; start makes a fresh fixture.
func Run(t *testing.T, start func(t *testing.T) Fixture) {
	t.Run("has a name", func(t *testing.T) {
		if start(t).Adapter.Name() == "" {
			t.Error("the adapter has no name")
		}
	})
	t.Run("streams what it replies", func(t *testing.T) { streams(t, start(t)) })
	t.Run("calls tools in parallel", func(t *testing.T) { calls(t, start(t)) })
	t.Run("stops when the context has ended", func(t *testing.T) { stops(t, start(t)) })
	t.Run("serves many at once", func(t *testing.T) { concurrent(t, start(t)) })
}

// Ask makes a request and returns the reply with the deltas seen on the way.
func Ask(t *testing.T, a model.Adapter, r model.Request) (model.Reply, []model.Delta, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var deltas []model.Delta
	reply, err := a.Stream(ctx, r, func(d model.Delta) { deltas = append(deltas, d) })
	return reply, deltas, err
}

// User makes a request of one user's message, with the tools bash and read on offer.
func User(text string) model.Request {
	object := json.RawMessage(`{"type":"object","properties":{}}`)
	return model.Request{
		Model:    api.ModelConfig{ID: "test-model"},
		System:   "Be brief.",
		Messages: []model.Message{{Role: model.RoleUser, Content: []model.Block{{Type: model.BlockText, Text: text}}}},
		Tools: []model.Tool{
			{Name: api.ToolBash, Description: "runs a command", InputSchema: object},
			{Name: api.ToolRead, Description: "reads a file", InputSchema: object},
		},
	}
}

func streams(t *testing.T, f Fixture) {
	reply, deltas, err := Ask(t, f.Adapter, f.Speak)
	if err != nil {
		t.Fatal(err)
	}
	if reply.StopReason != model.StopEndTurn || len(reply.Blocks) == 0 {
		t.Errorf("stop %q with %d blocks, want %s and some", reply.StopReason, len(reply.Blocks), model.StopEndTurn)
	}
	if reply.Usage.InputTokens <= 0 || reply.Usage.OutputTokens <= 0 {
		t.Errorf("usage is %+v", reply.Usage)
	}
	begun := -1
	texts := make([]strings.Builder, len(reply.Blocks))
	for _, d := range deltas {
		switch {
		case d.Index >= len(reply.Blocks):
			t.Fatalf("delta of block %d, the reply has %d", d.Index, len(reply.Blocks))
		case d.Index > begun+1 || d.Index < begun:
			t.Errorf("delta of block %d after one of block %d", d.Index, begun)
		case d.Index == begun+1 && d.Text != "":
			t.Errorf("block %d grows before it has begun", d.Index)
		}
		begun = d.Index
		if d.Type != reply.Blocks[d.Index].Type {
			t.Errorf("delta of block %d is of type %q, the block of %q", d.Index, d.Type, reply.Blocks[d.Index].Type)
		}
		texts[d.Index].WriteString(d.Text)
	}
	for i, b := range reply.Blocks {
		if b.Type == model.BlockText && texts[i].String() != b.Text {
			t.Errorf("block %d was streamed as %q and replied as %q", i, texts[i].String(), b.Text)
		}
	}
}

func calls(t *testing.T, f Fixture) {
	reply, _, err := Ask(t, f.Adapter, f.Call)
	if err != nil {
		t.Fatal(err)
	}
	if reply.StopReason != model.StopToolUse {
		t.Errorf("stop %q, want %s", reply.StopReason, model.StopToolUse)
	}
	names, ids := map[string]bool{}, map[string]bool{}
	for _, b := range reply.Blocks {
		if b.Type != model.BlockToolUse {
			continue
		}
		names[b.Name], ids[b.ID] = true, true
		var input map[string]any
		if err := json.Unmarshal(b.Input, &input); err != nil || input == nil {
			t.Errorf("input of %s is %s (%v), want an object", b.Name, b.Input, err)
		}
	}
	if !names[api.ToolBash] || !names[api.ToolRead] || len(ids) != 2 || ids[""] {
		t.Errorf("calls of %v with ids %v, want bash and read with an id each", names, ids)
	}
}

func stops(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Adapter.Stream(ctx, f.Speak, func(model.Delta) {})
	var failed *model.Error
	if !errors.As(err, &failed) {
		t.Errorf("error %v, want a *model.Error", err)
	}
}

func concurrent(t *testing.T, f Fixture) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if reply, err := f.Adapter.Stream(t.Context(), f.Speak, func(model.Delta) {}); err != nil || len(reply.Blocks) == 0 {
				t.Errorf("reply %+v, error %v", reply, err)
			}
		})
	}
	all.Wait()
}
