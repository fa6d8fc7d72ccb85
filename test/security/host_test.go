package security

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hearth/internal/hands/sandbox"
)

// planted are a host's secrets and doors, which no sandbox may find.
type planted struct {
	secret string // in files, variables, arguments and memory of the host
	file   string // a file with it, which everybody on the host may read
	tcp    string // a port on the host's loopback
	unix   string // a socket that everybody on the host may use
	named  string // an abstract socket
}

// plant puts them there. Whoever connects to a door is told the secret.
func plant(t *testing.T) planted {
	t.Helper()
	s := planted{secret: "secret-" + rand.Text()}
	dir, err := os.MkdirTemp("", "hearth-planted-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s.file, s.unix, s.named = filepath.Join(dir, "secret"), filepath.Join(dir, "door"), "@hearth-"+rand.Text()
	process := exec.Command("sleep", "600")
	process.Args[0] = "sleep-" + s.secret
	process.Env = []string{"KEY=" + s.secret}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(s.file, []byte(s.secret), 0o644), os.WriteFile(filepath.Join(dir, s.secret), nil, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": s.unix, "unixabstract": s.named} {
		l, err := net.Listen(strings.TrimSuffix(network, "abstract"), address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if network == "tcp" {
			s.tcp = l.Addr().String()
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, s.secret) // to whoever it is
				c.Close()
			}
		}()
	}
	if err := os.Chmod(s.unix, 0o777); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSecrets looks for what is on the host, by every way there is.
func TestSecrets(t *testing.T) {
	t.Parallel()
	s := plant(t)
	if c, err := net.Dial("tcp", s.tcp); err != nil {
		t.Fatalf("the door is shut to the host too: %v", err)
	} else {
		c.Close()
	}
	port := s.tcp[strings.LastIndex(s.tcp, ":")+1:]
	searches := []struct{ name, command string }{
		{"the environments of processes", "cat /proc/[0-9]*/environ | tr '\\0' '\\n'"},
		{"the environments of threads", "cat /proc/[0-9]*/task/*/environ | tr '\\0' '\\n'"},
		{"the arguments of processes", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"},
		{"descriptors", "for f in /proc/[0-9]*/fd/*; do timeout 0.05 head -c 1000 <$f; done; ls -l /proc/[0-9]*/fd"},
		{"the roots of processes", "cat /proc/[0-9]*/root" + s.file},
		{"the directories of processes", "for p in /proc/[0-9]*; do cat $p/cwd" + s.file + "; done"},
		{"the file", "cat " + s.file},
		{"the file by dots", "cat ../../../../../../../.." + s.file},
		{"the file by a link", "ln -s " + s.file + " link-" + rand.Text() + " && cat link-*"},
		{"a hard link to the file", "ln " + s.file + " hard && cat hard"},
		{"the directory", "ls -R $(dirname " + s.file + ")"},
		{"a port of the host", "timeout 2 cat </dev/tcp/127.0.0.1/" + port},
		{"a port of the host by name", "timeout 2 cat </dev/tcp/localhost/" + port},
		{"a port of the host by IPv6", "timeout 2 cat </dev/tcp/::1/" + port},
		{"all tcp sockets", "cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix; timeout 2 cat </dev/tcp/0.0.0.0/" + port},
		{"a socket of the host", socketReader(s.unix)},
		{"an abstract socket of the host", socketReader("\\0" + s.named[1:])},
		{"the state of workers", "cat ../state/*"},
		{"keys", "find / -xdev \\( -name 'api-key' -o -name '*environment-key*' -o -name 'worker.key' \\) -exec cat {} + 2>/dev/null"},
	}
	each(t, sandbox.Limits{}, func(t *testing.T, p *prisoner) {
		if err := os.WriteFile(filepath.Join(p.dir, "state", "api-key"), []byte(s.secret), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, search := range searches {
			t.Run(search.name, func(t *testing.T) {
				said := p.sh(t, "{ "+search.command+"; } 2>&1 | head -c 100000; true")
				if strings.Contains(said, s.secret) {
					t.Errorf("it found the secret: %.300q", said)
				}
			})
		}
		for tool, input := range map[string]map[string]any{
			"read": {"file_path": s.file}, "edit": {"file_path": s.file, "old_string": "secret", "new_string": "x"},
			"write": {"file_path": s.file, "content": "x"}, "glob": {"pattern": s.file + "*"}, "grep": {"pattern": "secret-", "path": filepath.Dir(s.file)},
		} {
			t.Run("the tool "+tool, func(t *testing.T) {
				if said, _ := p.tool(t, p.Sandbox, tool, input); strings.Contains(said, s.secret) {
					t.Errorf("it found the secret: %.300q", said)
				}
			})
		}
		t.Run("the tool read through a link made on the host", func(t *testing.T) {
			if err := os.Symlink(s.file, filepath.Join(p.work, "planted")); err != nil {
				t.Fatal(err)
			}
			if said, _ := p.tool(t, p.Sandbox, "read", map[string]any{"file_path": "planted"}); strings.Contains(said, s.secret) {
				t.Errorf("it found the secret: %.300q", said)
			}
		})
		if raw, err := os.ReadFile(s.file); err != nil || string(raw) != s.secret {
			t.Errorf("the file on the host holds %q, %v", raw, err)
		}
	})
}

// socketReader reads from a unix socket, with what most systems have.
func socketReader(path string) string {
	return fmt.Sprintf("timeout 2 perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); connect(S,pack_sockaddr_un(\"%s\")) or die $!; print <S>'", path)
}

// TestHostStaysAsItIs writes to what must not be written, and looks at the host.
func TestHostStaysAsItIs(t *testing.T) {
	t.Parallel()
	writes := []struct{ name, command, path string }{
		{"the users", "echo 'escape::0:0::/:/bin/sh' >>/etc/passwd", "/etc/passwd"},
		{"the shadow", "echo 'escape::::::::' >>/etc/shadow", "/etc/shadow"},
		{"a program", "cp /bin/true /usr/bin/env", "/usr/bin/env"},
		{"the shell", "cat /bin/true >/bin/bash", "/bin/bash"},
		{"the loader's preloads", "echo /workspace/x.so >/etc/ld.so.preload", "/etc/ld.so.preload"},
		{"scheduled jobs", "mkdir -p /etc/cron.d; echo '* * * * * root touch /tmp/escaped' >/etc/cron.d/escape", "/etc/cron.d/escape"},
		{"the core pattern", "echo '|/workspace/escape' >/proc/sys/kernel/core_pattern", "/proc/sys/kernel/core_pattern"},
		{"the module loader", "echo /workspace/escape >/proc/sys/kernel/modprobe", "/proc/sys/kernel/modprobe"},
		{"overcommit", "echo 1 >/proc/sys/vm/overcommit_memory", "/proc/sys/vm/overcommit_memory"},
		{"the host's name", "echo escaped >/proc/sys/kernel/hostname; hostname escaped", "/proc/sys/kernel/hostname"},
		{"binary formats", "echo ':x:M::\\x7fXX::/workspace/x:C' >/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/binfmt_misc/x"},
		{"the helper of hotplug", "echo /workspace/escape >/sys/kernel/uevent_helper", "/sys/kernel/uevent_helper"},
		{"the release agent", "mkdir -p /tmp/c; mount -t cgroup -o pids c /tmp/c; echo /workspace/escape >/tmp/c/release_agent; echo 1 >/tmp/c/notify_on_release", "/sys/fs/cgroup/pids/notify_on_release"},
		{"control groups", "echo 0 >/sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/escape /sys/fs/cgroup/pids/escape", "/sys/fs/cgroup/pids/escape"},
		{"the temporary directory", "echo x >/tmp/hearth-escaped", "/tmp/hearth-escaped"},
		{"the home of root", "echo x >/root/hearth-escaped", "/root/hearth-escaped"},
		{"the running directory", "echo x >/run/hearth-escaped", "/run/hearth-escaped"},
		{"shared memory", "echo x >/dev/shm/hearth-escaped", "/dev/shm/hearth-escaped"},
		{"the program of process 1", "cat /bin/true >/proc/1/exe; cat /bin/true >/.hearth", "PROGRAM"},
		{"the magic key", "echo b >/proc/sysrq-trigger", "/proc/sys/kernel/sysrq"},
	}
	each(t, sandbox.Limits{}, func(t *testing.T, p *prisoner) {
		for _, w := range writes {
			t.Run(w.name, func(t *testing.T) {
				path := w.path
				if path == "PROGRAM" {
					var err error
					if path, err = os.Executable(); p.engine.Name() == "gvisor" {
						path, err = program()
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				before := state(path)
				p.sh(t, "{ "+w.command+"; } 2>/dev/null; true")
				if after := state(path); after != before {
					t.Errorf("%s was %s and is %s", path, before, after)
				}
			})
		}
		p.fine(t, p.another(sandbox.Limits{}, filepath.Join(p.dir, "neighbour")))
	})
}

// state is what a file holds, and of what kind it is.
func state(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "not there"
	}
	if info.IsDir() {
		return "a directory"
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "unreadable"
	}
	return fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(raw))
}

// TestTraps leaves things in the working directory for whoever looks at it from
// outside.
func TestTraps(t *testing.T) {
	t.Parallel()
	each(t, sandbox.Limits{}, func(t *testing.T, p *prisoner) {
		in := func(name string) string { return filepath.Join(p.work, name) }
		t.Run("a program that runs as its owner", func(t *testing.T) {
			p.sh(t, "cp /bin/true owned; chmod 6755 owned")
			info, err := os.Lstat(in("owned"))
			if err != nil {
				t.Fatal(err)
			}
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 && os.Getuid() == 0 && info.Mode()&os.ModeSetuid != 0 {
				t.Error("there is a program of the host's root that runs as its owner")
			}
		})
		t.Run("a program that gains rights inside", func(t *testing.T) {
			p.sh(t, "cp /bin/cat gained; chmod 4755 gained")
			if said := p.sh(t, "grep -i nonewprivs /proc/self/status || echo 'NoNewPrivs: 1'"); !strings.Contains(said, "1") {
				t.Errorf("new privileges may be gained: %q", said)
			}
		})
		t.Run("a device", func(t *testing.T) {
			p.sh(t, "mknod disk b 254 0; mknod mem c 1 1; true")
			for _, name := range []string{"disk", "mem"} {
				if info, err := os.Lstat(in(name)); err == nil && info.Mode()&os.ModeDevice != 0 {
					t.Errorf("there is the device %s", name)
				}
			}
		})
		t.Run("a pipe that nobody writes", func(t *testing.T) {
			p.sh(t, "mkfifo pipe")
			for tool, input := range map[string]map[string]any{
				"read": {"file_path": "pipe"}, "grep": {"pattern": "x", "path": "."}, "edit": {"file_path": "pipe", "old_string": "a", "new_string": "b"}, "write": {"file_path": "pipe", "content": "x"},
			} {
				p.tool(t, p.Sandbox, tool, input) // it must answer at all
			}
		})
		t.Run("an endless file", func(t *testing.T) {
			p.sh(t, "ln -sf /dev/zero zero; truncate -s 10T sparse")
			for _, name := range []string{"zero", "sparse"} {
				if said, _ := p.tool(t, p.Sandbox, "read", map[string]any{"file_path": name}); len(said) > 1<<20 {
					t.Errorf("reading %s brought %d bytes", name, len(said))
				}
			}
			p.sh(t, "rm zero sparse pipe")
		})
		t.Run("names with newlines and escapes", func(t *testing.T) {
			p.sh(t, "touch $'a\\nb' $'\\e[31mred' -- '-rf' '--help'")
			if said, _ := p.tool(t, p.Sandbox, "glob", map[string]any{"pattern": "*"}); !strings.Contains(said, "-rf") {
				t.Errorf("glob says %.300q", said)
			}
		})
		t.Run("a core of a crash", func(t *testing.T) {
			p.sh(t, "ulimit -c unlimited; bash -c 'kill -SEGV $$'; true")
			if cores, _ := filepath.Glob(in("core*")); len(cores) > 0 {
				t.Errorf("there is %v", cores)
			}
		})
		t.Run("a server seen from outside", func(t *testing.T) {
			p.sh(t, "perl -MIO::Socket::INET -e '$l=IO::Socket::INET->new(LocalPort=>58231,Listen=>5,ReuseAddr=>1) or die; $l->accept' >/dev/null 2>&1 &")
			time.Sleep(200 * time.Millisecond)
			if c, err := net.DialTimeout("tcp", "127.0.0.1:58231", time.Second); err == nil {
				c.Close()
				t.Error("the host can be lured to a port of the sandbox")
			}
		})
		t.Run("the preload of the hand", func(t *testing.T) {
			p.sh(t, "echo /workspace/x.so >/etc/ld.so.preload; export LD_PRELOAD=/workspace/x.so")
			if said, failed := p.tool(t, p.Sandbox, "write", map[string]any{"file_path": "after", "content": "x"}); failed {
				t.Errorf("the hand says %q", said)
			}
		})
	})
}
