package sandboxtest

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/internal/hands/hand"
)

// maxText bounds a result's text: the 100 KiB a tool may show, and some words
// around it.
const maxText = 104 << 10

func testBash(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	equal(t, "output", b.bash("echo hello"), "hello")
	equal(t, "both streams", b.bash("echo one; echo two >&2; echo three"), "one\ntwo\nthree")
	equal(t, "no output", b.bash("true"), "(no output)")
	equal(t, "stdin is empty", b.bash("cat; read -r line; echo done"), "done")
	equal(t, "signals are as usual", b.bash("yes | head -1; echo ${PIPESTATUS[0]}; sh -c 'kill -PIPE $$; echo ignored'; kill -l $?"), "y\n141\nPIPE")
	for _, text := range []string{"\x01\x02\x1f\x7f\\ '\"`$!*\t", " \n é 世界 \U0001F525 ", strings.Repeat("long ", 40_000)} {
		quoted := "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
		b.bash("IFS=; set -eu; printf %s " + quoted + " > text")
		equal(t, "what a command says", b.get("text"), text)
	}
	equal(t, "a zero is left out", b.bash("echo a\x00b"), "ab")
	equal(t, "nothing of ours is seen", b.bash("set +eu; unset IFS; set | grep -i hearth; compgen -v _"), "_")
	equal(t, "the first directory", b.bash("pwd -P"), b.bash("cd "+b.Workdir()+" && pwd -P"))

	text := b.bad("bash", input{"command": "echo before; (exit 7)"})
	contains(t, text, "before", "exit code: 7")
	contains(t, b.bad("bash", input{}), "bash: command is required")
	contains(t, b.bad("bash", input{"command": ""}), "bash: command is required")
	contains(t, b.bad("bash", input{"command": "no-such-command-here"}), "exit code: 127")
}

func testBashState(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.bash("mkdir -p sub; cd sub; x='a b'; export y=exported; f() { echo \"f:$1\"; }; shopt -s extglob; umask 027")
	contains(t, b.bash("pwd"), "/sub")
	equal(t, "variable", b.bash(`echo "$x"`), "a b")
	equal(t, "exported", b.bash("sh -c 'echo $y'"), "exported")
	equal(t, "function", b.bash("f 1"), "f:1")
	equal(t, "umask", b.bash("umask"), "0027")
	equal(t, "exit status", b.bash("(exit 4) || true; echo $?"), "0")

	marker := newMarker()
	b.daemon(marker)
	b.bash("job=$!; kill -0 $job")
	equal(t, "the job table", b.bash("jobs -p"), b.bash("echo $job"))

	equal(t, "restart", b.ok("bash", input{"restart": true}), "bash session restarted")
	equal(t, "variable after restart", b.bash(`echo "[$x]"`), "[]")
	equal(t, "directory after restart", b.bash("pwd -P"), b.bash("cd "+b.Workdir()+" && pwd -P"))
}

// Whatever a command does to its own shell, the next call works.
func testBashSurvives(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	for _, command := range []string{
		"exit 3",
		"exec true",
		"exec 1>&- 2>&-",
		"exec >/dev/null 2>&1",
		"set -e; false",
		"set -u; echo $unset",
		"echo 'unbalanced",
		`echo "unbalanced`,
		"if true; then",
		"cat <<EOF\nno end",
		"}",
		"kill -9 $$",
		"trap '' TERM INT HUP; true",
		"PATH=/nowhere",
		"alias true=false echo=false printf=false; shopt -s expand_aliases",
		"readonly status=1 rc=1 code=1 ret=1 IFS PS1; true",
		"set -x; set -v; PROMPT_COMMAND='echo p'; PS1=prompt; true",
		"echo a\x00b",
		"stty raw 2>/dev/null; true",
	} {
		b.do(toolCall("bash", input{"command": command}))
		r := b.do(toolCall("bash", input{"command": "/bin/echo al''ive"}))
		if !strings.Contains(r.Text, "alive") {
			t.Errorf("after %q the next call said %.200q", command, r.Text)
		}
		b.ok("bash", input{"restart": true})
	}
	// What takes the shell's own words or descriptors away may cost a call, no
	// more.
	for _, command := range []string{
		"printf() { :; }; echo() { :; }; eval() { :; }; builtin() { :; }; exec() { :; }",
		"for fd in {3..255}; do eval \"exec $fd>&-\"; done",
		"yes & true",
	} {
		b.do(toolCall("bash", input{"command": command, "timeout_ms": 500}))
		b.do(toolCall("bash", input{"command": "kill $! && wait $!", "timeout_ms": 500}))
		contains(t, b.bash("/bin/echo al''ive"), "alive") // whatever is still being said
		b.ok("bash", input{"restart": true})
	}
	// A shell that ended on its own says so by its status, and a new one
	// starts in the workdir.
	contains(t, b.bad("bash", input{"command": "cd /; exit 3"}), "exit code: 3")
	equal(t, "directory after exit", b.bash("pwd -P"), b.bash("cd "+b.Workdir()+" && pwd -P"))
}

func testBashOutput(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	equal(t, "colours", b.bash(`printf '\e[1;31mred\e[0m \e]0;title\a\e[2Kplain\n'`), "red plain")
	contains(t, b.bash(`printf 'x\xff\xfe\x80y\xe2\x82z'`), "x", "y", "z")
	contains(t, b.bash("head -c 20000 /dev/urandom; echo; echo end"), "end")
	contains(t, b.bash(`printf 'a\0b'`), "a", "b")
	equal(t, "unicode", b.bash("echo 'žluťoučký 🐎 日本'"), "žluťoučký 🐎 日本")

	t.Run("spill", func(t *testing.T) {
		text := b.bash("seq 1 400000")
		if len(text) > maxText {
			t.Errorf("the result has %d bytes", len(text))
		}
		contains(t, text, "truncated")
		if !strings.Contains(text, "\n400000") {
			t.Errorf("the end of the output is not shown: %.200q", text[len(text)-200:])
		}
		path := spillPath(t, text)
		equal(t, "the spilled bytes", b.bash("cmp "+path+" <(seq 1 400000) && echo same"), "same")
		contains(t, b.ok("grep", input{"pattern": "^399999$", "path": path}), "399999")
	})
	t.Run("one long line", func(t *testing.T) {
		text := b.bash("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end")
		if len(text) > maxText {
			t.Errorf("the result has %d bytes", len(text))
		}
		contains(t, text, "truncated", "end")
		equal(t, "spilled", b.bash("head -c 300000 "+spillPath(t, text)+" | tr -d x | wc -c"), "0")
	})
	t.Run("flood", func(t *testing.T) {
		call := toolCall("bash", input{"command": "yes flood"})
		call.Timeout = 300 * time.Millisecond
		r := b.do(call)
		if !r.IsError || len(r.Text) > maxText {
			t.Errorf("is_error %v, %d bytes", r.IsError, len(r.Text))
		}
		equal(t, "after the flood", b.bash("echo fine"), "fine")
	})
	// A program that will not wait for whoever reads what it prints, as some
	// runtimes do, is one that shares the pipe with all others.
	b.installProbe()
	b.probe("nonblock")
	contains(t, b.bash("head -c 3000000 /dev/zero | tr '\\0' x"), "all 3000000 bytes")
}

var spilled = regexp.MustCompile(`[^\s"'()\[\]]*\.hearth/outputs/[^\s"'()\[\],;]+`)

// spillPath finds where a truncated result says the whole of it is.
func spillPath(t *testing.T, text string) string {
	t.Helper()
	path := strings.TrimRight(spilled.FindString(text), ".:")
	if path == "" {
		t.Fatalf("no path to the whole output in %.300q ... %.300q", text, text[max(0, len(text)-300):])
	}
	return path
}

func testBashTimeout(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	sleeper := func(marker string) string {
		// One in the background, one in the foreground.
		return "x=1; cd /; echo started; (exec -a " + marker + " sleep 100000) & (exec -a " + marker + " sleep 100000)"
	}
	checkRestarted := func(r hand.Result, marker string) {
		t.Helper()
		if !r.IsError {
			t.Errorf("a call that timed out is no error: %q", r.Text)
		}
		contains(t, r.Text, "started", "timed out", "session restarted after timeout")
		eventually(t, "the command is killed", func() bool { return b.inside(marker) == 0 })
		equal(t, "state after", b.bash(`echo "[$x]"; pwd -P`), b.bash(`echo "[]"; cd `+b.Workdir()+`; pwd -P`))
	}
	b.bash("true") // bash runs, so that a command begins within its time on a slow machine too
	marker := newMarker()
	call := toolCall("bash", input{"command": sleeper(marker)})
	call.Timeout = time.Second
	checkRestarted(b.do(call), marker)

	marker = newMarker()
	checkRestarted(b.do(toolCall("bash", input{"command": sleeper(marker), "timeout_ms": 1000})), marker)

	// One that ignores being asked.
	marker = newMarker()
	checkRestarted(b.do(toolCall("bash", input{"command": "trap '' INT TERM HUP; " + sleeper(marker), "timeout_ms": 1000})), marker)
}

func testBashCancel(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	marker := newMarker()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r, err := b.try(ctx, toolCall("bash", input{"command": "touch started; (exec -a " + marker + " sleep 100000)"})); err == nil && !r.IsError {
			t.Errorf("a cancelled call succeeded: %q", r.Text)
		}
	}()
	eventually(t, "the command runs", func() bool { _, err := os.Stat(b.hostPath("started")); return err == nil })
	cancel()
	closes(t, "the cancelled call", done)
	eventually(t, "the command is killed", func() bool { return b.inside(marker) == 0 })
	equal(t, "after", b.bash("echo fine"), "fine")

	// A call cancelled while it waits its turn never runs.
	holder := make(chan struct{})
	go func() {
		defer close(holder)
		b.do(toolCall("bash", input{"command": "touch held; until [ -e gate ]; do sleep 0.01; done"}))
	}()
	eventually(t, "the session is held", func() bool { _, err := os.Stat(b.hostPath("held")); return err == nil })
	waiting, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	waiter := make(chan struct{})
	go func() {
		defer close(waiter)
		_, _ = b.try(waiting, toolCall("bash", input{"command": "touch ran"}))
	}()
	giveUp()
	closes(t, "the waiting call", waiter)
	b.put("gate", nil)
	closes(t, "the holding call", holder)
	b.bash("true")
	missing(t, b.hostPath("ran"))
}

// Bash calls run one after another; file tools do not wait for them.
func testBashTakesTurns(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	const n = 8
	b.bash("echo 0 >count")
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			b.do(toolCall("bash", input{"command": "c=$(cat count); sleep 0.01; echo $((c+1)) >count"}))
		})
	}
	wg.Wait()
	equal(t, "count", strings.TrimSpace(b.get("count")), strconv.Itoa(n))

	wg.Go(func() {
		b.do(toolCall("bash", input{"command": "until [ -e gate ]; do sleep 0.01; done"}))
	})
	b.ok("write", input{"file_path": "gate", "content": "open"})
	wg.Wait()
}
