package main

import (
	"testing"
	"time"

	"hearth/internal/db/dbtest"
)

// TestChaos is a small helping of what the command does.
func TestChaos(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{
		"sqlite":   func(testing.TB) string { return "" },
		"postgres": dbtest.PostgresURL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), config{
				rounds: 1, sessions: 6, turns: 3, kills: 3, seed: uint64(time.Now().UnixNano()),
				engine: "namespace", databaseURL: url(t), patience: time.Minute,
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
