package price

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hearth/api"
)

const table = `{"web_search_per_thousand": 10, "models": {
	"m": {"input": 1, "output": 5, "fast": {"input": 2, "output": 10}, "long": {"over": 100, "input": 3, "output": 15}},
	"own": {"input": 0, "output": 0}, "odd": {"input": 0.0001, "output": 0, "cache_write_5m": 1, "cache_write_1h": 2, "cache_read": 3}}}`

func TestCost(t *testing.T) {
	prices, err := Parse([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		model api.ModelConfig
		usage api.ModelUsage
		nanos int64
		ok    bool
	}{
		{"input and output", api.ModelConfig{ID: "m"}, api.ModelUsage{InputTokens: 10, OutputTokens: 10}, 60_000, true},
		{"a dated name", api.ModelConfig{ID: "m-20260101"}, api.ModelUsage{InputTokens: 10}, 10_000, true},
		{"a name that only begins alike", api.ModelConfig{ID: "m-2026"}, api.ModelUsage{InputTokens: 10}, 0, false},
		{"the cache, by default", api.ModelConfig{ID: "m"}, api.ModelUsage{CacheCreationInputTokens: 30, CacheWrite1h: 10, CacheReadInputTokens: 10}, 20_000 + 25_000 + 1_000, true},
		{"the cache, as said", api.ModelConfig{ID: "odd"}, api.ModelUsage{CacheCreationInputTokens: 30, CacheWrite1h: 10, CacheReadInputTokens: 10}, 20_000 + 20_000 + 30_000, true},
		{"more for an hour than there is", api.ModelConfig{ID: "m"}, api.ModelUsage{CacheCreationInputTokens: 10, CacheWrite1h: 40}, 20_000, true},
		{"fast", api.ModelConfig{ID: "m", Speed: "fast"}, api.ModelUsage{InputTokens: 10}, 20_000, true},
		{"fast, and served otherwise", api.ModelConfig{ID: "m", Speed: "fast"}, api.ModelUsage{InputTokens: 10, Speed: "standard"}, 10_000, true},
		{"fast without a price", api.ModelConfig{ID: "own", Speed: "fast"}, api.ModelUsage{InputTokens: 10}, 0, false},
		{"just not long", api.ModelConfig{ID: "m"}, api.ModelUsage{InputTokens: 50, CacheReadInputTokens: 50}, 50_000 + 5_000, true},
		{"long", api.ModelConfig{ID: "m"}, api.ModelUsage{InputTokens: 51, CacheReadInputTokens: 50, OutputTokens: 1}, 153_000 + 15_000 + 15_000, true},
		{"a search", api.ModelConfig{ID: "m"}, api.ModelUsage{WebSearches: 1}, NanosPerCent, true},
		{"for nothing", api.ModelConfig{ID: "own"}, api.ModelUsage{InputTokens: 1 << 40}, 0, true},
		{"less than a billionth", api.ModelConfig{ID: "odd"}, api.ModelUsage{InputTokens: 1}, 1, true},
		{"a model nobody knows", api.ModelConfig{ID: "x"}, api.ModelUsage{OutputTokens: 1}, 0, false},
		{"nothing of a model nobody knows", api.ModelConfig{ID: "x"}, api.ModelUsage{}, 0, true},
	} {
		if nanos, ok := prices.Cost(c.model, c.usage); nanos != c.nanos || ok != c.ok {
			t.Errorf("%s: %d, %v, want %d, %v", c.what, nanos, ok, c.nanos, c.ok)
		}
	}
}

// TestBadTables: what is wrong is named, so that a mistake costs nobody money.
func TestBadTables(t *testing.T) {
	for raw, want := range map[string]string{
		`{`:                               "not a table",
		`{"model": {}}`:                   "model",
		`{"models": {"m": {"input": 1}}}`: "models.m: needs input and output",
		`{"models": {"m": {"input": -1, "output": 1}}}`:                                   "models.m.input",
		`{"models": {"m": {"input": 1, "output": 20000}}}`:                                "models.m.output",
		`{"models": {"m": {"input": 1, "output": 1, "cache_reads": 1}}}`:                  "cache_reads",
		`{"models": {"m": {"input": 1, "output": 1, "fast": {"input": 1}}}}`:              "models.m.fast",
		`{"models": {"m": {"input": 1, "output": 1, "long": {"input": 1, "output": 1}}}}`: "models.m.long.over",
		`{"web_search_per_thousand": -1}`:                                                 "web_search_per_thousand",
		`{"models": {"m": {"input": "1", "output": 1}}}`:                                  "input",
	} {
		path := filepath.Join(t.TempDir(), "prices.json")
		if err := os.WriteFile(path, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want it to name %q", raw, err, want)
		}
	}
}

// TestEmbedded: the table that comes with the binary is one, and knows the
// models of the SDK that it names.
func TestEmbedded(t *testing.T) {
	prices := Default()
	for _, model := range []string{"claude-opus-5-5", "claude-sonnet-4-5-20250929", "claude-haiku-4-5"} {
		if !prices.Prices(api.ModelConfig{ID: model}) {
			t.Errorf("%s has no price", model)
		}
	}
}
