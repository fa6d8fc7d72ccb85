package sandboxtest

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"hearth/internal/hands/hand"
)

// watch gathers what a terminal shows until its program ends, or until a text has
// been shown.
func watch(t *testing.T, s *hand.Screen, until string) string {
	t.Helper()
	var shown bytes.Buffer
	late := time.AfterFunc(patience, s.Close)
	defer late.Stop()
	for until == "" || !strings.Contains(shown.String(), until) {
		piece, ok := s.Shown()
		if !ok && until != "" {
			t.Fatalf("the terminal ended before it showed %q, after %q", until, shown.String())
		}
		if !ok {
			break
		}
		shown.Write(piece)
	}
	return shown.String()
}

// testTerminal sits at terminals beside the session's shell.
func testTerminal(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.bash("echo kept >file; inside=yes")
	open := func(command ...string) *hand.Screen {
		t.Helper()
		s, err := b.Terminal(t.Context(), hand.Terminal{ID: newID(), Command: command, Term: "xterm", Size: hand.Size{Rows: 30, Columns: 90}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	exit := func(s *hand.Screen, want int) {
		t.Helper()
		if code, err := s.Wait(); code != want || err != nil {
			t.Errorf("it ended with %d, %v; want %d", code, err, want)
		}
	}

	s := open("sh", "-c", "cat file; stty size; echo $TERM; test -t 0 && test -t 1; exit 3")
	if got := watch(t, s, ""); got != "kept\r\n30 90\r\nxterm\r\n" {
		t.Errorf("it shows %q", got)
	}
	exit(s, 3)

	// An interactive shell, whose size changes and which is interrupted.
	s = open()
	say := func(text string) {
		t.Helper()
		if err := s.Type([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	say("echo ${inside:-apart} | tr a-z A-Z\n")
	watch(t, s, "APART\r\n")
	if err := s.Resize(hand.Size{Rows: 7, Columns: 40}); err != nil {
		t.Fatal(err)
	}
	say("PS1='rea''dy>'; stty size; sh -c 'printf \"wai%s\\n\" ting; exec sleep 1000'\n")
	if got := watch(t, s, "waiting\r\n"); !strings.Contains(got, "7 40\r\n") {
		t.Errorf("it shows %q", got)
	}
	say("\x03")
	watch(t, s, "ready>") // what is typed before that is thrown away with the command
	say("exit 5\n")
	watch(t, s, "")
	exit(s, 5)

	// Much is shown while nobody looks, and calls go on meanwhile.
	s = open("sh", "-c", "yes | head -c 4000000; echo all")
	b.bash("true")
	if got := watch(t, s, ""); len(got) != 6_000_000+len("all\r\n") {
		t.Errorf("it shows %d bytes", len(got))
	}
	exit(s, 0)

	// What is left in the background does not keep it open.
	s = open("sh", "-c", "(trap '' HUP; sleep 1000) & echo left; exit 4")
	if got := watch(t, s, ""); got != "left\r\n" {
		t.Errorf("it shows %q", got)
	}
	exit(s, 4)

	// Closed from outside, nothing of it is left.
	closed := func(s *hand.Screen) {
		t.Helper()
		watch(t, s, "")
		if code, err := s.Wait(); code != 128+1 && code != 128+9 || err != nil {
			t.Errorf("it ended with %d, %v; want by a signal", code, err)
		}
	}
	s = open("sleep", "1000")
	s.Close()
	closed(s)
	// Nor of what its shell has in the foreground and in the background, whatever the kernel.
	s = open()
	say("sleep 4321 & sh -c 'printf \"wai%s\\n\" ting; exec sleep 4321'\n")
	watch(t, s, "waiting\r\n")
	s.Close()
	closed(s)
	if got := b.bash("for i in $(seq 100); do ps -eo args | grep -q '^sleep 4321' || break; sleep 0.1; done; ps -eo args | grep -c '^sleep 4321' || true"); strings.TrimSpace(got) != "0" {
		t.Errorf("left are %q", got)
	}
	s = open("absent-program")
	watch(t, s, "")
	exit(s, 127)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := b.Terminal(ctx, hand.Terminal{ID: newID(), Command: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	closed(s)
	if got := b.bash("cat file; echo $inside"); got != "kept\nyes\n" && got != "kept\nyes" {
		t.Errorf("the session's own shell says %q", got)
	}

	// It ends with its sandbox.
	s = open("sleep", "1000")
	if err := b.Destroy(context.Background()); err != nil {
		t.Fatal(err)
	}
	watch(t, s, "")
	if code, err := s.Wait(); err == nil && code != 128+1 && code != 128+9 { // the hand may still have told
		t.Errorf("it ended well, with %d", code)
	}
	if _, err := b.Terminal(t.Context(), hand.Terminal{ID: newID()}); err == nil {
		t.Error("a terminal opens in a sandbox that is gone")
	}
}
