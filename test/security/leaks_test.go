package security

import (
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/internal/hands/sandbox"
)

// cycles is how many sandboxes of the namespace engine are made and destroyed,
// and a tenth as many of gVisor: go test ./test/security -run Leaks -cycles 1000.
var cycles = flag.Int("cycles", 10, "how many sandboxes to make and destroy in the test for leaks")

// TestLeaks makes and destroys sandboxes, and wants the host to be as before.
func TestLeaks(t *testing.T) {
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			n := *cycles
			if engine == "gvisor" {
				n = max(2, n/10)
			}
			p := imprison(t, engine, small)
			made := []string{p.round(t)} // what is made once, and kept
			before := p.held(t, made)
			for range n {
				made = append(made, p.round(t))
			}
			// What the kernel does after the fact may take it a moment.
			var after map[string][]string
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
				if after = p.held(t, made); len(more(before, after)) == 0 {
					t.Logf("%d cycles left nothing", n)
					return
				}
			}
			for kind, things := range more(before, after) {
				t.Errorf("after %d cycles, %s are left: %.1000q", n, kind, things)
			}
		})
	}
}

// more is what there is after and was not there before.
func more(before, after map[string][]string) map[string][]string {
	left := map[string][]string{}
	for kind, things := range after {
		for _, thing := range things {
			if !slices.Contains(before[kind], thing) {
				left[kind] = append(left[kind], thing)
			}
		}
	}
	return left
}

// round makes a sandbox, has it do a little, and destroys it.
func (p *prisoner) round(t *testing.T) (id string) {
	t.Helper()
	id = strings.ToLower(rand.Text())
	work := filepath.Join(p.dir, "round-"+rand.Text())
	s, err := p.engine.Create(t.Context(), sandbox.Spec{ID: id, Workdir: work, Limits: small})
	if err != nil {
		t.Fatal(err)
	}
	p.tool(t, s, "bash", map[string]any{"command": "sleep 100 & mkfifo f; perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); bind(S,pack_sockaddr_un(\"s\"))'; echo x >/tmp/x"})
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	return id
}

// held is what the host holds for the engine's sandboxes, those of the ids among
// them.
func (p *prisoner) held(t *testing.T, ids []string) map[string][]string {
	t.Helper()
	held := map[string][]string{}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		mounts, _ := os.ReadFile(process + "/mountinfo") // it may have just ended
		if strings.Contains(string(mounts), p.dir) {
			held["processes"] = append(held["processes"], filepath.Base(process))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	held["mounts"] = []string{fmt.Sprint(strings.Count(string(mounts), p.dir))}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for n := range open { // which numbers they have does not matter
		held["descriptors"] = append(held["descriptors"], fmt.Sprint(n))
	}
	_ = filepath.WalkDir(p.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !strings.HasPrefix(path, p.work) {
			held["files"] = append(held["files"], path)
		}
		return nil
	})
	for _, id := range ids {
		for _, dir := range groups().Dirs(id) {
			if _, err := os.Stat(dir); err == nil {
				held["control groups"] = append(held["control groups"], dir)
			}
		}
	}
	return held
}
