package sandboxtest

import (
	"context"
	"path/filepath"
	"testing"

	"hearth/internal/hands/sandbox"
)

// Benchmark measures the two waits a model notices: from nothing to the first
// command's answer, and one command in a sandbox that runs.
func Benchmark(b *testing.B, newEngine Maker) {
	engine := newEngine(b.TempDir())
	if err := engine.Check(b.Context()); err != nil {
		b.Skip(err)
	}
	call := toolCall("bash", input{"command": "true"})
	call.ID = "call"
	workdir := filepath.Join(b.TempDir(), "work")
	create := func() sandbox.Sandbox {
		s, err := engine.Create(b.Context(), sandbox.Spec{ID: newID(), Workdir: workdir})
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	run := func(s sandbox.Sandbox) {
		if r, err := s.Call(b.Context(), call); err != nil || r.IsError {
			b.Fatal(r.Text, err)
		}
	}
	destroy := func(s sandbox.Sandbox) {
		if err := s.Destroy(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("create to first call", func(b *testing.B) {
		for b.Loop() {
			s := create()
			run(s)
			b.StopTimer()
			destroy(s)
			b.StartTimer()
		}
	})
	b.Run("call", func(b *testing.B) {
		s := create()
		defer destroy(s)
		for b.Loop() {
			run(s)
		}
	})
}
