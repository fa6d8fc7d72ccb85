package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Table is one result, ready to print.
type Table struct {
	Title  string
	Header []string
	Rows   [][]string
	// Notes say how to read the figures.
	Notes string
	// Bars are drawn below them, in milliseconds.
	Bars []bar
}

// bar is one of a chart's.
type bar struct {
	name string
	is   time.Duration
}

// chart draws bars in Mermaid, as pages of Markdown show it.
func chart(bars []bar) string {
	names, values := make([]string, len(bars)), make([]string, len(bars))
	for i, b := range bars {
		names[i], values[i] = fmt.Sprintf("%q", b.name), ms(b.is)
	}
	return fmt.Sprintf("\n```mermaid\nxychart-beta horizontal\n    x-axis [%s]\n    y-axis \"p50, in turn, ms\"\n    bar [%s]\n```\n", strings.Join(names, ", "), strings.Join(values, ", "))
}

// String is the table in Markdown.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", t.Title)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.Header)
	rule := make([]string, len(t.Header))
	for i := range rule {
		rule[i] = "---:"
	}
	rule[0] = "---"
	line(rule)
	for _, row := range t.Rows {
		line(row)
	}
	if t.Notes != "" {
		fmt.Fprintf(&b, "\n%s\n", t.Notes)
	}
	if len(t.Bars) > 0 {
		b.WriteString(chart(t.Bars))
	}
	return b.String()
}

// sample is many measurements of one thing.
type sample []time.Duration

// at is the value below which the share p of the sample lies.
func (s sample) at(p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// cells are the sample's row: how many, and its percentiles.
func (s sample) cells() []string {
	return []string{fmt.Sprint(len(s)), ms(s.at(0.5)), ms(s.at(0.95)), ms(s.at(0.99))}
}

// percentiles is the header that goes with sample.cells.
func percentiles(first string) []string { return []string{first, "n", "p50 ms", "p95 ms", "p99 ms"} }

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

// ratio is how many times a is b.
func ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f", float64(a)/float64(b)) }
