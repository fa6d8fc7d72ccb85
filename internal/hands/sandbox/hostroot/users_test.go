package hostroot

import (
	"os"
	"path/filepath"
	"testing"
)

func next(t *testing.T, dir string) int {
	t.Helper()
	n, err := nextRange(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n < 0 || n >= userRanges {
		t.Fatalf("range %d is none", n)
	}
	return n
}

// Workers on different states do not give their sandboxes the same users.
func TestCountersBeginApart(t *testing.T) {
	begin := map[int]bool{}
	for range 4 {
		dir := t.TempDir()
		first := next(t, dir)
		begin[first] = true
		if second := next(t, dir); second != (first+1)%userRanges {
			t.Errorf("%d comes after %d", second, first)
		}
	}
	if len(begin) == 1 { // by chance once in 10,000³
		t.Errorf("all counters begin at %v", begin)
	}
}

// A counter goes on from where it was, and comes round.
func TestCounterGoesOn(t *testing.T) {
	dir := t.TempDir()
	for was, want := range map[string]int{"7         \n": 8, "9999      \n": 0} {
		if err := os.WriteFile(filepath.Join(dir, counterFile), []byte(was), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := next(t, dir); n != want {
			t.Errorf("%d comes after %q, want %d", n, was, want)
		}
	}
}
