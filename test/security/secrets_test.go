package security

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hearth/internal/hands/sandbox"
)

// newSecret is a text of the form that attempts look for.
func newSecret() string { return "secret-" + rand.Text() }

// planted is a secret in a file that everybody on the host may read, in the name
// of another, and in the arguments and the environment of a process.
type planted struct {
	secret, dir, file string
	pid               int
}

func plant(t *testing.T) planted {
	t.Helper()
	s := planted{secret: newSecret(), dir: openDir(t)}
	s.file = filepath.Join(s.dir, "file")
	for _, name := range []string{"file", s.secret} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(s.secret+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	process := exec.Command("sleep", "600")
	process.Args[0] = "sleep-" + s.secret
	process.Env = []string{"KEY=" + s.secret}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	s.pid = process.Process.Pid
	return s
}

// intact wants what was planted to be as it was.
func (s planted) intact(t *testing.T) {
	t.Helper()
	if raw, err := os.ReadFile(s.file); err != nil || string(raw) != s.secret+"\n" {
		t.Errorf("the file on the host holds %q, %v", raw, err)
	}
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 2 {
		t.Errorf("the directory on the host holds %v, %v", entries, err)
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory on the host is %v, %v", info.Mode(), err)
	}
}

// testSecrets looks for what is on the host, by every way there is.
func testSecrets(t *testing.T, p *prisoner) {
	s := plant(t)
	// The neighbour's files, and what the worker keeps with its state.
	neighbour := confine(t, p.engine, p.dir, "neighbour", sandbox.Limits{})
	for _, path := range []string{filepath.Join(neighbour.work, "theirs"), filepath.Join(p.dir, "state", "worker.key"), filepath.Join(p.dir, "beside")} {
		if err := os.WriteFile(path, []byte(s.secret), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	searches := []struct{ name, command string }{
		{"a file", "cat " + s.file},
		{"a file by dots", "cat ../../../../../../../.." + s.file},
		{"a file by the roots of processes", "cat /proc/[0-9]*/root" + s.file + " /proc/self/root" + s.file + " /proc/thread-self/root" + s.file},
		{"a file by the directories of processes", "for p in /proc/[0-9]* /proc/self; do cat $p/cwd" + s.file + " $p/cwd/../../../../.." + s.file + "; done"},
		{"a file by the descriptors of processes", "for d in /proc/[0-9]*/fd/*; do cat $d" + s.file + " $d/../../../../../.." + s.file + "; done"},
		{"a file by a link", "ln -s " + s.file + " link && cat link"},
		{"a file by a link through the kernel", "ln -s /proc/1/root" + s.file + " magic && cat magic"},
		{"a file by a hard link", "ln " + s.file + " hard && cat hard"},
		{"a file by the root of another user", "su nobody -s /bin/cat " + s.file},
		{"a directory", "ls -lR " + s.dir},
		{"the state of the worker", "cat ../state/* " + p.dir + "/state/* " + p.dir + "/*"},
		{"the files of a neighbour", "cat ../neighbour/* " + neighbour.work + "/*"},
		{"a process", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; ps axeww"},
		{"a process by its number", "cat /proc/" + strconv.Itoa(s.pid) + "/cmdline /proc/" + strconv.Itoa(s.pid) + "/environ /proc/" + strconv.Itoa(s.pid) + "/task/*/cmdline"},
		{"sockets", "cat /proc/net/unix /proc/net/tcp"},
	}
	for _, search := range searches {
		t.Run(search.name, func(t *testing.T) {
			said := p.sh(t, "{ "+search.command+"; } 2>/dev/null | tr '\\0' '\\n' | head -c 90000; true")
			if strings.Contains(said, s.secret) {
				t.Errorf("it found the secret: %.300q", said)
			}
		})
	}
	t.Run("the host's passwords", func(t *testing.T) {
		for _, name := range []string{"/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/sudoers"} {
			host, err := os.ReadFile(name)
			if err != nil || len(host) < 8 {
				continue // there is nothing to hide, or not from this user
			}
			if said := p.sh(t, "cat "+name); strings.Contains(said, string(host[:8])) {
				t.Errorf("it reads %s", name)
			}
		}
	})
	s.intact(t)
}

// testTools leads the tools of the hand to a file of the host.
func testTools(t *testing.T, p *prisoner) {
	s := plant(t)
	if err := os.Symlink(s.file, filepath.Join(p.work, "made-outside")); err != nil {
		t.Fatal(err)
	}
	p.do(t, "ln -s "+s.file+" tofile; ln -s "+s.dir+" todir; ln -s / toroot; ln -s /proc/self/root/ tokernel; ln -s /etc/shadow toshadow; mkdir swapped; echo x >swapped/file")
	roads := map[string]string{
		"a name": s.file, "dots": "../../../../../.." + s.file, "a link": "tofile", "a link to its directory": "todir/file",
		"a link to the root": "toroot" + s.file, "a link of the kernel": "tokernel" + s.file, "a link made outside": "made-outside",
		"process 1": "/proc/1/root" + s.file, "a descriptor": "/proc/self/fd/0", "a link to the host's passwords": "toshadow",
	}
	for road, path := range roads {
		t.Run("by "+road, func(t *testing.T) {
			for tool, input := range map[string]map[string]any{
				"read": {"file_path": path}, "edit": {"file_path": path, "old_string": "secret-", "new_string": "x"}, "write": {"file_path": path, "content": "overwritten"},
				"glob": {"pattern": "*", "path": filepath.Dir(path)}, "grep": {"pattern": "secret-|root:", "path": path},
			} {
				said, failed := p.tool(t, tool, input)
				if strings.Contains(said, s.secret) || strings.Contains(said, "root:") {
					t.Errorf("%s found the secret: %.300q", tool, said)
				}
				if !failed && tool != "glob" {
					t.Errorf("%s succeeded: %.300q", tool, said)
				}
			}
		})
	}
	t.Run("by a directory that becomes a link", func(t *testing.T) {
		p.do(t, "mkdir stopped; (while [ -d stopped ]; do mv -T swapped away; ln -sT "+s.dir+" swapped; rm swapped; mv -T away swapped; done >/dev/null 2>&1) & true")
		for range 40 {
			for tool, input := range map[string]map[string]any{"read": {"file_path": "swapped/file"}, "write": {"file_path": "swapped/new", "content": "x"}, "grep": {"pattern": "secret-", "path": "swapped"}} {
				if said, _ := p.tool(t, tool, input); strings.Contains(said, s.secret) {
					t.Errorf("%s found the secret: %.300q", tool, said)
				}
			}
		}
		p.do(t, "rmdir stopped; wait; rm -rf swapped away tofile todir toroot tokernel toshadow made-outside")
	})
	s.intact(t)
}
