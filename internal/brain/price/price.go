// Package price knows what models cost at list price, from a table that the
// operator may replace. It owns no data and may call only api.
package price

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	"hearth/api"
)

// Embedded is the table used when the operator gives none, as JSON.
//
//go:embed prices.json
var Embedded []byte

// Table is the list price of every model it names. It does not change once read.
type Table struct {
	webSearch int64 // picodollars for one
	models    map[string]model
}

// model is what a million tokens cost, in picodollars for each token.
type model struct {
	normal rates
	fast   *rates // nil: there is no price for speed fast
	long   *rates // for requests of more than longOver tokens of prompt
	over   int64
}

type rates struct{ input, output, write5m, write1h, read int64 }

// NanosPerCent is how many billionths of a dollar a cent is.
const NanosPerCent = 10_000_000

// document is the table as JSON has it, in dollars.
type document struct {
	WebSearchPerThousand float64          `json:"web_search_per_thousand"`
	Models               map[string]entry `json:"models"`
}

// entry is the price of a million tokens of each kind.
type entry struct {
	dollars
	Fast *dollars `json:"fast"`
	Long *struct {
		dollars
		Over int64 `json:"over"`
	} `json:"long"`
}

type dollars struct {
	Input        *float64 `json:"input"`
	Output       *float64 `json:"output"`
	CacheWrite5m *float64 `json:"cache_write_5m"` // default 1.25 × input
	CacheWrite1h *float64 `json:"cache_write_1h"` // default 2 × input
	CacheRead    *float64 `json:"cache_read"`     // default 0.1 × input
}

// Default is the embedded table.
func Default() *Table {
	t, err := Parse(Embedded)
	if err != nil {
		panic("the embedded prices: " + err.Error())
	}
	return t
}

// Load reads a table from a file, which replaces the embedded one as a whole.
func Load(path string) (*Table, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Parse reads a table.
func Parse(raw []byte) (*Table, error) {
	var doc document
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("not a table of prices: %w", err)
	}
	search, err := pico("web_search_per_thousand", doc.WebSearchPerThousand, 1000)
	if err != nil {
		return nil, err
	}
	t := &Table{webSearch: search, models: map[string]model{}}
	for name, e := range doc.Models {
		field := "models." + name
		var m model
		if m.normal, err = e.rates(field); err != nil {
			return nil, err
		}
		if e.Fast != nil {
			fast, err := e.Fast.rates(field + ".fast")
			if err != nil {
				return nil, err
			}
			m.fast = &fast
		}
		if e.Long != nil {
			long, err := e.Long.rates(field + ".long")
			if err != nil {
				return nil, err
			}
			if e.Long.Over < 1 {
				return nil, fmt.Errorf("%s.long.over: must be the number of tokens from which these prices hold", field)
			}
			m.long, m.over = &long, e.Long.Over
		}
		t.models[name] = m
	}
	return t, nil
}

func (d dollars) rates(field string) (r rates, err error) {
	if d.Input == nil || d.Output == nil {
		return r, fmt.Errorf("%s: needs input and output, in dollars for a million tokens", field)
	}
	or := func(given *float64, factor float64) float64 {
		if given != nil {
			return *given
		}
		return factor * *d.Input
	}
	for _, p := range []struct {
		name    string
		dollars float64
		to      *int64
	}{
		{"input", *d.Input, &r.input}, {"output", *d.Output, &r.output}, {"cache_write_5m", or(d.CacheWrite5m, 1.25), &r.write5m},
		{"cache_write_1h", or(d.CacheWrite1h, 2), &r.write1h}, {"cache_read", or(d.CacheRead, 0.1), &r.read},
	} {
		if *p.to, err = pico(field+"."+p.name, p.dollars, 1_000_000); err != nil {
			return r, err
		}
	}
	return r, nil
}

// maxDollars bounds a price, so that sums stay within 64 bits.
const maxDollars = 10_000

// pico turns dollars for so many into picodollars for one.
func pico(field string, dollars float64, many float64) (int64, error) {
	if !(dollars >= 0 && dollars <= maxDollars) {
		return 0, fmt.Errorf("%s: must be from 0 to %d dollars", field, maxDollars)
	}
	return int64(math.Round(dollars * 1e12 / many)), nil
}

// of finds a model, by its name or by its name without a date at the end.
func (t *Table) of(id string) (model, bool) {
	m, ok := t.models[id]
	if i := strings.LastIndexByte(id, '-'); !ok && i > 0 && len(id)-i == len("-20250101") && strings.Trim(id[i+1:], "0123456789") == "" {
		m, ok = t.models[id[:i]]
	}
	return m, ok
}

// Prices tells whether the table has a price for a model at its speed.
func (t *Table) Prices(c api.ModelConfig) bool {
	m, ok := t.of(c.ID)
	return ok && (c.Speed != speedFast || m.fast != nil)
}

const speedFast = "fast"

// Cost is what one request cost, in billionths of a dollar, each begun one
// counted. It is false for a model without a price, unless nothing was used.
func (t *Table) Cost(c api.ModelConfig, u api.ModelUsage) (nanos int64, ok bool) {
	prompt := u.InputTokens + u.CacheCreationInputTokens + u.CacheReadInputTokens
	if prompt+u.OutputTokens+u.WebSearches == 0 {
		return 0, true
	}
	if u.Speed != "" {
		c.Speed = u.Speed // as served, which may not be as asked
	}
	if !t.Prices(c) {
		return 0, false
	}
	m, _ := t.of(c.ID)
	r := m.normal
	switch {
	case c.Speed == speedFast:
		r = *m.fast
	case m.long != nil && prompt > m.over:
		r = *m.long
	}
	write1h := min(u.CacheWrite1h, u.CacheCreationInputTokens)
	sum := u.InputTokens*r.input + u.OutputTokens*r.output + u.CacheReadInputTokens*r.read +
		write1h*r.write1h + (u.CacheCreationInputTokens-write1h)*r.write5m + u.WebSearches*t.webSearch
	return (sum + 999) / 1000, true
}
