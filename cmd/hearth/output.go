package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hearth/api"
	"hearth/client"
)

// output is the -o flag of the commands that print objects.
type output struct{ format string }

func (o *output) register(flags *pflag.FlagSet) {
	o.format = "table"
	oneOf(flags, &o.format, "output", "o", "how to print: table or json", "table", "json")
}

// column is one column of a table of T.
type column[T any] struct {
	title string
	cell  func(T) string
}

// printOne prints an object: as JSON, or as a table of one row.
func printOne[T any](cmd *cobra.Command, o output, columns []column[T], object T) error {
	if o.format == "json" {
		return printJSON(cmd.OutOrStdout(), object)
	}
	return printTable(cmd.OutOrStdout(), columns, []T{object})
}

// printAll prints a list: as one JSON array, or as a table.
func printAll[T any](cmd *cobra.Command, o output, columns []column[T], objects []T) error {
	if o.format == "json" {
		if objects == nil {
			objects = []T{}
		}
		return printJSON(cmd.OutOrStdout(), objects)
	}
	return printTable(cmd.OutOrStdout(), columns, objects)
}

func printJSON(w io.Writer, v any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(shown(w, text.Bytes()))
	return err
}

// shown is JSON as it is to be written: what would steer a terminal is escaped on one,
// in the way of JSON, and as it is anywhere else.
func shown(w io.Writer, raw []byte) []byte {
	if !isTerminal(w) {
		return raw
	}
	var text bytes.Buffer
	for _, r := range string(raw) {
		if r == 0x7f || r >= 0x80 && r <= 0x9f {
			fmt.Fprintf(&text, `\u%04x`, r)
		} else {
			text.WriteRune(r)
		}
	}
	return text.Bytes()
}

func printTable[T any](w io.Writer, columns []column[T], rows []T) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	line := func(cell func(column[T]) string) {
		for i, c := range columns {
			if i > 0 {
				fmt.Fprint(table, "\t")
			}
			fmt.Fprint(table, cell(c))
		}
		fmt.Fprintln(table)
	}
	line(func(c column[T]) string { return c.title })
	for _, row := range rows {
		// An agent may have named it.
		line(func(c column[T]) string { return printable(c.cell(row)) })
	}
	return table.Flush()
}

// listAll walks a list from its first page until limit objects are there (0: all).
func listAll[T any](cmd *cobra.Command, c *client.Client, path string, query url.Values, limit int) ([]T, error) {
	var all []T
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", strconv.Itoa(pageSize(limit)))
	for {
		var page api.Page[T]
		if err := c.Do(cmd.Context(), http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Data...)
		if limit > 0 && len(all) >= limit {
			return all[:limit], nil
		}
		if page.NextPage == nil {
			return all, nil
		}
		query.Set("page", *page.NextPage)
	}
}

func pageSize(limit int) int {
	if limit > 0 && limit < 100 {
		return limit
	}
	return 100
}

func since(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return t.Local().Format("2006-01-02")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
