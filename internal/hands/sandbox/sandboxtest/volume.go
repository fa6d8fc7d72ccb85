package sandboxtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Everything tells whether the suite is to take the time to move 100 MB and
// 10,000 files, and to run all of it as an ordinary user too.
func Everything() bool { return os.Getenv("HEARTH_TEST_ALL") != "" }

// share is enough for every day.
func share(whole int) int {
	if Everything() {
		return whole
	}
	return whole / 50
}

// testVolume moves a lot through a sandbox, and wants the worker's side not to
// hold it all.
func testVolume(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	bytes := share(100_000_000)
	result := b.slow(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x | fold -w 99", bytes))
	if len(result) > 200_000 || !strings.Contains(result, "xxx") {
		t.Errorf("%d bytes of output came back as %d", bytes, len(result))
	}
	files := share(10_000)
	b.slow(fmt.Sprintf("mkdir many && cd many && for i in $(seq %d); do echo needle $i >f$i; done; cd ..", files))
	if got := b.ok("grep", input{"pattern": fmt.Sprintf("^needle %d$", files), "path": "many"}); !strings.Contains(got, fmt.Sprint("f", files)) {
		t.Errorf("grep of %d files says %.300q", files, got)
	}
	if got := b.ok("glob", input{"pattern": fmt.Sprintf("many/f%d", files-1)}); !strings.Contains(got, fmt.Sprint("f", files-1)) {
		t.Errorf("glob of %d files says %.300q", files, got)
	}
	// 200 levels of 10 bytes are about half of what a path may be.
	b.slow("mkdir -p deep; (cd deep; for i in $(seq " + fmt.Sprint(max(50, share(200))) + "); do mkdir level-0000 && cd level-0000; done; echo found >bottom)")
	if got := b.ok("grep", input{"pattern": "found", "path": "deep"}); !strings.Contains(got, "bottom") {
		t.Errorf("grep of a deep tree says %.300q", got)
	}
	equal(t, "binary data", b.bash("head -c 1000000 /dev/urandom >random && cp random copy && cmp random copy && stat -c %s copy"), "1000000")
}

// slow runs a command that may take its time.
func (b *box) slow(command string) string {
	b.t.Helper()
	call := toolCall("bash", input{"command": command})
	call.Timeout = 5 * time.Minute
	r, err := b.Call(b.t.Context(), call)
	if err != nil || r.IsError {
		b.t.Fatalf("%s: %.300q, %v", command, r.Text, err)
	}
	return r.Text
}

// testTimeAndSignals wants the clock, users and signals to be what programs expect.
func testTimeAndSignals(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	var seconds int64
	if _, err := fmt.Sscan(b.bash("date +%s"), &seconds); err != nil {
		t.Fatal(err)
	}
	if off := time.Since(time.Unix(seconds, 0)).Abs(); off > time.Minute {
		t.Errorf("the sandbox's clock is off by %v", off)
	}
	for command, want := range map[string]string{
		"trap 'echo caught' USR1; kill -USR1 $$; sleep 0.1; trap - USR1":                                 "caught",
		"(bash -c 'kill -TERM $$'; echo $?) 2>/dev/null":                                                 "143",
		"(bash -c 'kill -SEGV $$'; echo $?) 2>/dev/null":                                                 "139",
		"(exec 3>&1; yes | head -1 >&3); echo ${PIPESTATUS[0]}":                                          "y\n0",
		"timeout 0.2 sleep 10; echo $?":                                                                  "124",
		"sleep 10 & kill -STOP $!; kill -CONT $!; kill $!; wait $! 2>/dev/null; echo $?":                 "143",
		"[ $(id -u) = $(stat -c %u .) ] && echo own":                                                     "own",
		"getent passwd $(id -u) >/dev/null && [ -n \"$(id -un)\" ] && [ -w \"$HOME\" ] && echo somebody": "somebody",
	} {
		equal(t, command, b.bash(command), want)
	}
}
