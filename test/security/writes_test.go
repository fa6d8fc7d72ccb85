package security

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
)

// testWrites writes to what must not be written, and looks at the host.
func testWrites(t *testing.T, p *prisoner) {
	program := os.Getenv(hearthName)
	if p.engine.Name() == "namespace" {
		var err error
		if program, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	writes := []struct{ name, path, command string }{
		{"the users", "/etc/passwd", "echo 'escape::0:0::/:/bin/sh' >>/etc/passwd"},
		{"the passwords", "/etc/shadow", "echo 'escape::::::::' >>/etc/shadow"},
		{"a program", "/usr/bin/env", "cp /bin/true /usr/bin/env"},
		{"the loader's preloads", "/etc/ld.so.preload", "echo /workspace/x.so >/etc/ld.so.preload; rm -f /etc/ld.so.preload"},
		{"scheduled jobs", "/etc/cron.d/escape", "mkdir -p /etc/cron.d; echo '* * * * * root touch /tmp/escaped' >/etc/cron.d/escape"},
		{"keys of root", "/root/.ssh/authorized_keys", "mkdir -p /root/.ssh; echo key >>/root/.ssh/authorized_keys"},
		{"the core pattern", "/proc/sys/kernel/core_pattern", "echo '|/workspace/escape' >/proc/sys/kernel/core_pattern"},
		{"the module loader", "/proc/sys/kernel/modprobe", "echo /workspace/escape >/proc/sys/kernel/modprobe"},
		{"overcommit", "/proc/sys/vm/overcommit_memory", "echo 2 >/proc/sys/vm/overcommit_memory"},
		{"the host's name", "/proc/sys/kernel/hostname", "echo escaped >/proc/sys/kernel/hostname; hostname escaped"},
		{"forwarding", "/proc/sys/net/ipv4/ip_forward", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/ip_forward"},
		{"binary formats", "/proc/sys/fs/binfmt_misc/x", "echo ':x:M::\\x7fXX::/workspace/x:C' >/proc/sys/fs/binfmt_misc/register"},
		{"the helper of hotplug", "/sys/kernel/uevent_helper", "echo /workspace/escape >/sys/kernel/uevent_helper"},
		{"the power", "/sys/power/state", "echo mem >/sys/power/state"},
		{"the release agent", "/sys/fs/cgroup/pids/release_agent", "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do echo /workspace/escape >$d/release_agent; done; mkdir -p /tmp/c; mount -t cgroup -o pids c /tmp/c; echo /workspace/escape >/tmp/c/release_agent"},
		{"notify on release", "/sys/fs/cgroup/pids/notify_on_release", "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do echo 1 >$d/notify_on_release; done"},
		{"control groups", "/sys/fs/cgroup/pids/escape", "mkdir /sys/fs/cgroup/escape /sys/fs/cgroup/*/escape; echo 0 >/sys/fs/cgroup/cgroup.procs"},
		{"devices", "/dev/escape", "echo x >/dev/escape"},
		{"the temporary directory", "/tmp/hearth-escaped", "echo x >/tmp/hearth-escaped"},
		{"the running directory", "/run/hearth-escaped", "echo x >/run/hearth-escaped"},
		{"shared memory", "/dev/shm/hearth-escaped", "echo x >/dev/shm/hearth-escaped"},
		{"the program of process 1", program, "cp /bin/bash shell; for f in /proc/1/exe /proc/self/exe /.hearth; do ./shell -c 'cat /bin/true >'$f'; echo x >>'$f; done; ./shell -c 'exec 3</proc/1/exe; echo x >>/proc/self/fd/3'"},
		{"the magic key", "/proc/sys/kernel/sysrq", "echo h >/proc/sysrq-trigger; echo 1 >/proc/sys/kernel/sysrq"},
	}
	for _, w := range writes {
		t.Run(w.name, func(t *testing.T) {
			before := state(w.path)
			p.sh(t, "{ "+w.command+"; } 2>/dev/null; true")
			if after := state(w.path); after != before {
				t.Errorf("%s was %s and is %s", w.path, before, after)
			}
			p.fine(t)
		})
	}
}

// state is what a file holds, and of what kind it is.
func state(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "not there"
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprint(info.Mode())
	}
	return fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(raw))
}

// testTraps leaves things in the working directory for whoever looks at it from
// outside, or uses the tools.
func testTraps(t *testing.T, p *prisoner) {
	in := func(name string) string { return filepath.Join(p.work, name) }
	t.Run("a program that runs as its owner", func(t *testing.T) {
		p.do(t, "cp /bin/true owned; chmod 6755 owned")
		info, err := os.Lstat(in("owned"))
		if err != nil {
			t.Fatal(err)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if os.Getuid() == 0 && (owner.Uid == 0 || owner.Gid == 0) {
			t.Errorf("it is %v, of %d:%d", info.Mode(), owner.Uid, owner.Gid)
		}
	})
	t.Run("a program that gains rights inside", func(t *testing.T) {
		p.do(t, "cp /bin/cat gained; chmod 4755 gained")
		status := p.do(t, "if id nobody >/dev/null 2>&1 && su nobody -s /bin/true 2>/dev/null; then su nobody -s /bin/sh -c './gained /proc/self/status'; else ./gained /proc/self/status; fi")
		if !strings.Contains(status, "NoNewPrivs:\t1") {
			t.Errorf("new privileges may be gained: %.300q", status)
		}
		if su := p.sh(t, "su nobody -s /bin/sh -c './gained /proc/self/status'"); strings.Contains(su, "Uid:\t65534\t0") {
			t.Errorf("it runs as its owner: %.300q", su)
		}
	})
	t.Run("a device", func(t *testing.T) {
		p.sh(t, "mknod disk b 254 0; mknod mem c 1 1; cp -a /dev/null copied; true")
		for _, name := range []string{"disk", "mem", "copied"} {
			if info, err := os.Lstat(in(name)); err == nil && info.Mode()&os.ModeDevice != 0 {
				t.Errorf("there is the device %s", name)
			}
		}
	})
	t.Run("a pipe that nobody writes", func(t *testing.T) {
		p.do(t, "mkfifo pipe")
		for tool, input := range map[string]map[string]any{
			"read": {"file_path": "pipe"}, "grep": {"pattern": "x", "path": "pipe"}, "edit": {"file_path": "pipe", "old_string": "a", "new_string": "b"}, "write": {"file_path": "pipe", "content": "x"},
		} {
			if said, failed := p.tool(t, tool, input); !failed && tool != "grep" { // it must answer at all
				t.Errorf("%s says %.300q", tool, said)
			}
		}
		p.do(t, "rm pipe")
	})
	t.Run("an endless file", func(t *testing.T) {
		p.do(t, "ln -sf /dev/zero zero; truncate -s 10T sparse || truncate -s 1T sparse")
		for _, name := range []string{"zero", "sparse"} {
			for tool, input := range map[string]map[string]any{"read": {"file_path": name}, "grep": {"pattern": "x", "path": name}, "edit": {"file_path": name, "old_string": "a", "new_string": "b"}} {
				if said, _ := p.tool(t, tool, input); len(said) > 1<<20 {
					t.Errorf("%s of %s brought %d bytes", tool, name, len(said))
				}
			}
		}
		p.do(t, "rm zero sparse")
	})
	t.Run("names with newlines and escapes", func(t *testing.T) {
		p.do(t, "touch -- $'a\\nb' $'\\e[31mred' '-rf' '--help' $'\\xff\\xfe'")
		if said, _ := p.tool(t, "glob", map[string]any{"pattern": "*"}); !strings.Contains(said, "-rf") {
			t.Errorf("glob says %.300q", said)
		}
		p.fine(t)
	})
	t.Run("a core of a crash", func(t *testing.T) {
		p.sh(t, "ulimit -c unlimited; ulimit -c 1000000; bash -c 'kill -SEGV $$'; true")
		if cores, _ := filepath.Glob(in("*core*")); len(cores) > 0 {
			t.Errorf("there is %v", cores)
		}
	})
	t.Run("the preload of the hand", func(t *testing.T) {
		p.sh(t, "echo /workspace/x.so >/etc/ld.so.preload; export LD_PRELOAD=/workspace/x.so")
		if said, failed := p.tool(t, "write", map[string]any{"file_path": "after", "content": "x"}); failed {
			t.Errorf("the hand says %q", said)
		}
		p.sh(t, "rm -f /etc/ld.so.preload; unset LD_PRELOAD")
		p.fine(t)
	})
}

// TestWhatIsLeft leaves traps for who destroys a sandbox, and for who makes the
// next one on the same working directory.
func TestWhatIsLeft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, engine string) {
		s := plant(t)
		p := imprison(t, engine, small)
		p.do(t, strings.ReplaceAll(`for d in . /tmp /var /root /opt; do
			ln -s DIR $d/link; mkdir -p $d/shut/in; ln -s DIR $d/shut/in/link; ln -s DIR/file $d/shut/in/file; chmod 000 $d/shut/in $d/shut
		done
		mkfifo pipe; ln -s DIR/new skills; ln -s / root; mkdir -p .hearth; ln -s DIR .hearth/outputs`, "DIR", s.dir))
		if text, _ := p.tool(t, "bash", map[string]any{"command": "seq 200000"}); strings.Contains(text, "are in") {
			t.Errorf("an output went through a link: %.200q", text[len(text)-200:])
		}
		if err := p.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.intact(t)
		var before, after unix.Stat_t
		if err := unix.Stat(s.dir, &before); err != nil {
			t.Fatal(err)
		}
		next := confine(t, p.engine, p.dir, "work", sandbox.Limits{})
		next.fine(t)
		if err := next.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(s.dir, &after); err != nil || before.Uid != after.Uid || before.Mode != after.Mode {
			t.Errorf("the directory on the host was of %d and is of %d (%v)", before.Uid, after.Uid, err)
		}
		s.intact(t)
	})
}
