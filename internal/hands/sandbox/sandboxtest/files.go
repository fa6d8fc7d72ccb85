package sandboxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hearth/internal/hands/hand"
)

func testRead(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.put("a.txt", []byte("one\ntwo\nthree\nfour\n"))
	equal(t, "relative", b.ok("read", input{"file_path": "a.txt"}), "one\ntwo\nthree\nfour\n")
	equal(t, "absolute", b.ok("read", input{"file_path": path.Join(b.Workdir(), "a.txt")}), "one\ntwo\nthree\nfour\n")
	for _, c := range []struct {
		first, last int
		want        string
	}{
		{2, 3, "two\nthree"},
		{3, 3, "three"},
		{3, -1, "three\nfour"},
		{3, 0, "three\nfour"},
		{4, 400, "four"},
	} {
		got := b.ok("read", input{"file_path": "a.txt", "view_range": []int{c.first, c.last}})
		equal(t, fmt.Sprintf("lines %d to %d", c.first, c.last), strings.TrimSuffix(got, "\n"), c.want)
	}
	for _, word := range []string{"one", "two", "three", "four"} {
		if strings.Contains(b.ok("read", input{"file_path": "a.txt", "view_range": []int{90, 99}}), word) {
			t.Errorf("lines past the end show %q", word)
		}
	}
	contains(t, b.bad("read", input{"file_path": "none.txt"}), "none.txt", "no such file or directory")
	b.bad("read", input{})
	b.bad("read", input{"file_path": "."})

	if err := syscall.Mkfifo(b.hostPath("fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	b.bad("read", input{"file_path": "fifo"})

	big := bytes.Repeat([]byte("0123456789abcde\n"), 20000)
	b.put("big.txt", big)
	contains(t, b.bad("read", input{"file_path": "big.txt"}), "320000", "view_range")
	equal(t, "a part of a big file", b.ok("read", input{"file_path": "big.txt", "view_range": []int{19999, 19999}}), "0123456789abcde\n")
	b.bad("read", input{"file_path": "big.txt", "view_range": []int{1, -1}})

	b.put("binary", []byte("\x00\x01\xff\xfeELF"))
	b.do(toolCall("read", input{"file_path": "binary"}))
	b.put("empty", nil)
	b.ok("read", input{"file_path": "empty"})
}

func testWrite(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	contains(t, b.ok("write", input{"file_path": "a/b/c.txt", "content": "héllo"}), "wrote 6 bytes to", "c.txt")
	equal(t, "content", b.get("a/b/c.txt"), "héllo")
	equal(t, "mode", b.bash("stat -c %a a/b/c.txt"), "644")
	b.ok("write", input{"file_path": "a/b/c.txt", "content": "second"})
	equal(t, "again", b.get("a/b/c.txt"), "second")
	b.ok("write", input{"file_path": path.Join(b.Workdir(), "abs.txt"), "content": ""})
	equal(t, "empty", b.get("abs.txt"), "")
	equal(t, "nothing left over", b.bash("ls -A a/b"), "c.txt")

	big := strings.Repeat("line of a big file\n", 1<<16)
	b.ok("write", input{"file_path": "big.txt", "content": big})
	equal(t, "big", b.get("big.txt"), big)

	b.bad("write", input{"content": "nowhere"})
	b.bad("write", input{"file_path": "a/b", "content": "a directory"})
	b.bad("write", input{"file_path": "abs.txt/under-a-file", "content": "x"})

	// A reader never sees half a file.
	var wg sync.WaitGroup
	versions := []string{strings.Repeat("x", 200000), strings.Repeat("y", 200000)}
	b.put("atomic", []byte(versions[0]))
	wg.Go(func() {
		for i := range 20 {
			b.ok("write", input{"file_path": "atomic", "content": versions[i%2]})
		}
	})
	for range 200 {
		if got := b.get("atomic"); got != versions[0] && got != versions[1] {
			t.Errorf("a reader saw %d bytes of a write", len(got))
			break
		}
	}
	wg.Wait()
}

func testEdit(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.put("a.txt", []byte("alpha beta alpha\n"))
	contains(t, b.ok("edit", input{"file_path": "a.txt", "old_string": "beta", "new_string": "$1 \\n gamma"}), "edited", "a.txt", "(1 replacement")
	equal(t, "one", b.get("a.txt"), "alpha $1 \\n gamma alpha\n")
	contains(t, b.bad("edit", input{"file_path": "a.txt", "old_string": "beta", "new_string": "x"}), "old_string not found in", "a.txt")
	contains(t, b.bad("edit", input{"file_path": "a.txt", "old_string": "alpha", "new_string": "x"}), "old_string appears 2 times in", "must be unique")
	equal(t, "refused", b.get("a.txt"), "alpha $1 \\n gamma alpha\n")
	contains(t, b.ok("edit", input{"file_path": "a.txt", "old_string": "alpha", "new_string": "", "replace_all": true}), "(2 replacement")
	equal(t, "all", b.get("a.txt"), " $1 \\n gamma \n")
	contains(t, b.bad("edit", input{"file_path": "none", "old_string": "a", "new_string": "b"}), "no such file or directory")
	b.bad("edit", input{"file_path": "a.txt", "old_string": "", "new_string": "b"})

	b.put("script", []byte("#!/bin/sh\necho old\n"))
	if err := os.Chmod(b.hostPath("script"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.ok("edit", input{"file_path": "script", "old_string": "old", "new_string": "new"})
	equal(t, "an edited script still runs", b.bash("./script"), "new")

	b.put("big", bytes.Repeat([]byte("x"), 300<<10))
	b.bad("edit", input{"file_path": "big", "old_string": "x", "new_string": "y"})
}

func testGlob(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	now := time.Now()
	for i, name := range []string{"old.go", "dir/middle.go", "dir/deep/new.go", "other.txt"} {
		b.put(name, nil)
		at := now.Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(b.hostPath(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	abs := func(names ...string) string {
		for i := range names {
			names[i] = path.Join(b.Workdir(), names[i])
		}
		return strings.Join(names, "\n")
	}
	glob := func(in input) string { t.Helper(); return strings.TrimSpace(b.ok("glob", in)) }
	equal(t, "any depth, newest first", glob(input{"pattern": "**/*.go"}), abs("dir/deep/new.go", "dir/middle.go", "old.go"))
	equal(t, "one level", glob(input{"pattern": "*.go"}), abs("old.go"))
	equal(t, "below a path", glob(input{"pattern": "*.go", "path": "dir"}), abs("dir/middle.go"))
	equal(t, "alternatives", glob(input{"pattern": "*.{txt,md}"}), abs("other.txt"))
	equal(t, "none", glob(input{"pattern": "*.rs"}), "no matches")
	b.bad("glob", input{"pattern": "../*"})
	b.bad("glob", input{"pattern": "/etc/*"})
	b.bad("glob", input{"pattern": "[unclosed"})
	b.bad("glob", input{})

	for i := range 250 {
		b.put(fmt.Sprintf("many/%d.m", i), nil)
	}
	if n := strings.Count(b.ok("glob", input{"pattern": "**/*.m"}), ".m\n") + 1; n < 200 || n > 201 {
		t.Errorf("250 matches, %d shown, the most is 200", n)
	}
}

func testGrep(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.put("a.txt", []byte("hay\nneedle one\nhay\n"))
	b.put("sub/b.txt", []byte("needle: two\n"))
	b.put(".git/config", []byte("needle in git\n"))
	b.put("blob", []byte("needle\x00\x01\x02 in a binary\n"))
	text := b.ok("grep", input{"pattern": "ne+dle"})
	contains(t, text, "a.txt:2:needle one", "b.txt:1:needle: two")
	for _, hidden := range []string{"in git", "in a binary"} {
		if strings.Contains(text, hidden) {
			t.Errorf("the search shows what is %s", hidden)
		}
	}
	text = b.ok("grep", input{"pattern": "needle", "path": "sub"})
	contains(t, text, "b.txt:1:needle: two")
	if strings.Contains(text, "a.txt") {
		t.Errorf("a search below sub shows %q", text)
	}
	contains(t, b.ok("grep", input{"pattern": "needle", "path": "a.txt"}), "2:needle one")
	equal(t, "none", strings.TrimSpace(b.ok("grep", input{"pattern": "absent"})), "no matches")
	b.bad("grep", input{"pattern": "(unclosed"})
	b.bad("grep", input{})
	b.do(toolCall("grep", input{"pattern": "-e--files"})) // a pattern, not options

	b.put("long.txt", bytes.Repeat([]byte("needle in a long file\n"), 20000))
	text = b.ok("grep", input{"pattern": "long file"})
	contains(t, text, "truncated")
	if len(text) > maxText {
		t.Errorf("the result has %d bytes", len(text))
	}
}

// A call that makes no sense is the model's mistake to read about.
func testBadCalls(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	for _, call := range []hand.Call{
		toolCall("no-such-tool", input{}),
		toolCall("", input{}),
		toolCall("bash", "not an object"),
		toolCall("bash", []int{1}),
		toolCall("bash", input{"command": 7}),
		toolCall("bash", nil),
		toolCall("read", input{"file_path": []int{}}),
		toolCall("read", input{"file_path": "a\x00b"}),
		toolCall("read", input{"file_path": "x", "view_range": []int{1}}),
		toolCall("read", input{"file_path": strings.Repeat("long/", 5000)}),
		toolCall("edit", input{"file_path": 3}),
		{Tool: "bash"},
		{Tool: "write", Input: json.RawMessage(`null`)},
	} {
		if r := b.do(call); !r.IsError {
			t.Errorf("%s %.100s: succeeded: %.200q", call.Tool, call.Input, r.Text)
		}
	}
	equal(t, "after", b.bash("echo fine"), "fine")
}

func testHostileNames(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	for _, name := range []string{
		"žluťoučký kůň 🐎.txt",
		"with\nnewline",
		"-rf",
		"--help",
		"$(touch pwned)",
		"`touch pwned`",
		"; touch pwned;",
		"it's \"quoted\"",
		"back\\slash",
		"*",
		"tab\there",
		"~",
		"...",
		" leading and trailing ",
		strings.Repeat("n", 255),
	} {
		b.ok("write", input{"file_path": "./" + name, "content": "content of it"})
		equal(t, name, b.ok("read", input{"file_path": "./" + name}), "content of it")
		b.ok("edit", input{"file_path": "./" + name, "old_string": "of it", "new_string": "changed"})
		equal(t, name, b.get(name), "content changed")
		contains(t, b.ok("grep", input{"pattern": "changed", "path": "./" + name}), "content changed")
		if err := os.Remove(b.hostPath(name)); err != nil {
			t.Error(err)
		}
	}
	b.put("žluťoučký.txt", nil)
	contains(t, b.ok("glob", input{"pattern": "žlu*.txt"}), "žluťoučký.txt")
	missing(t, b.hostPath("pwned"))
}

func testManyCalls(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			name := fmt.Sprintf("f%d", i)
			content := strings.Repeat(name+" ", 1+i*100)
			b.do(toolCall("write", input{"file_path": name, "content": content}))
			if r := b.do(toolCall("read", input{"file_path": name})); r.Text != content {
				t.Errorf("read of %s: %.100q", name, r.Text)
			}
			if r := b.do(toolCall("grep", input{"pattern": name, "path": name})); !strings.Contains(r.Text, name+" ") {
				t.Errorf("grep of %s: %.100q", name, r.Text)
			}
			if r := b.do(toolCall("bash", input{"command": "echo said " + name})); strings.TrimSpace(r.Text) != "said "+name {
				t.Errorf("bash for %s: %.100q", name, r.Text)
			}
		})
	}
	wg.Wait()
	for i := range 100 {
		// A name may be used again once its call has been answered.
		call := toolCall("bash", input{"command": "true"})
		call.ID = "again"
		if r, err := b.Call(t.Context(), call); err != nil || r.IsError {
			t.Fatalf("call %d of one name: %q, %v", i, r.Text, err)
		}
	}
}
