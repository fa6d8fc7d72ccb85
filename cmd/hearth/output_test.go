package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestTableSteersNoTerminal prints what an agent may call a file.
func TestTableSteersNoTerminal(t *testing.T) {
	var out bytes.Buffer
	name := "report\u009b31m\x1b]0;title\x07\r.txt"
	if err := printTable(&out, []column[string]{{"NAME", func(s string) string { return s }}}, []string{name}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.ContainsAny(got, "\u009b\x1b\x07\r") || !strings.Contains(got, "report") {
		t.Errorf("it prints %q", got)
	}
}
