package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/creack/pty"
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

// TestJSONSteersNoTerminal prints what an agent may have written: to a terminal it says
// the same in other signs, and to whatever reads it in those it has.
func TestJSONSteersNoTerminal(t *testing.T) {
	const said = "a\u009b31m\u007f\u0085b"
	var out bytes.Buffer
	if err := printJSON(&out, said); err != nil || out.String() != `"`+said+"\"\n" {
		t.Errorf("elsewhere it prints %q, %v", out.String(), err)
	}
	control, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := printJSON(terminal, said); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 100)
	n, err := control.Read(shown)
	terminal.Close()
	var read string
	if err != nil || strings.ContainsAny(string(shown[:n]), "\u009b\u007f\u0085") || json.Unmarshal(shown[:n], &read) != nil || read != said {
		t.Errorf("it prints %q, %v", shown[:n], err)
	}
}
