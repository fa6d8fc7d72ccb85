package sandboxtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
)

func testOwnNamespaces(t *testing.T, newEngine Maker) {
	if err := newEngine(t.TempDir()).Check(t.Context()); err != nil {
		t.Skip(err)
	}
	b := newBox(t, newEngine)
	for _, kind := range []string{"user", "pid", "mnt", "net", "ipc", "uts", "cgroup"} {
		if kind == "user" && b.sharesUsers() {
			continue
		}
		path := "/proc/self/ns/" + kind
		host, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		if inside := b.do(toolCall("bash", input{"command": "readlink " + path})).Text; inside == host {
			t.Errorf("the sandbox shares the %s namespace of its worker", kind)
		}
	}
}

func testIsolatedProcesses(t *testing.T, newEngine Maker) {
	hostMarker, otherMarker := newMarker(), newMarker()
	host := exec.Command("sleep", "100000")
	host.Args[0] = hostMarker
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Process.Kill(); _ = host.Wait() }()
	a, b := newBox(t, newEngine), newBox(t, newEngine)
	a.daemon(otherMarker)

	seen := b.bash("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'; ls /proc | grep '^[0-9]' | wc -l")
	for _, marker := range []string{hostMarker, otherMarker} {
		if strings.Contains(seen, marker) {
			t.Errorf("the sandbox sees a process that is not its own")
		}
	}
	b.bad("bash", input{"command": fmt.Sprintf("kill -0 %d", host.Process.Pid)})
	b.bad("bash", input{"command": fmt.Sprintf("kill -0 %d", os.Getpid())})
	b.do(toolCall("bash", input{"command": "kill -9 -1"}))
	if a.inside(otherMarker) != 1 || len(running(hostMarker)) != 1 {
		t.Error("the sandbox killed a process that is not its own")
	}
	equal(t, "the other", a.bash("echo fine"), "fine")
	if name, err := os.Hostname(); err != nil || b.bash("cat /proc/sys/kernel/hostname") == name {
		t.Errorf("the sandbox knows the host's name (%v)", err)
	}
}

func testHostFilesHidden(t *testing.T, newEngine Maker) {
	secret := newMarker()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // nothing but the sandbox hides it
			t.Fatal(err)
		}
	}
	a, b := newBox(t, newEngine), newBox(t, newEngine)
	a.put("theirs", []byte(secret))
	for _, path := range []string{filepath.Join(dir, "secret"), "/proc/1/root" + dir + "/secret", "/proc/self/root" + dir + "/secret", a.hostPath("theirs")} {
		if strings.Contains(b.do(toolCall("bash", input{"command": "cat '" + path + "'"})).Text, secret) {
			t.Errorf("the sandbox reads %s", path)
		}
	}
	b.bad("bash", input{"command": "ls " + b.state})
	equal(t, "homes", b.bash("ls -A /home | wc -l"), "0")
	for _, name := range []string{"/etc/shadow", "/etc/gshadow", "/etc/sudoers"} {
		host, err := os.ReadFile(name)
		if err != nil || len(host) == 0 {
			continue // nothing here to hide from this user
		}
		if r := b.do(toolCall("bash", input{"command": "cat " + name})); !r.IsError && strings.TrimSpace(r.Text) == strings.TrimSpace(string(host)) {
			t.Errorf("the sandbox reads %s", name)
		}
	}
}

// Programs can be installed, and replaced, for the sandbox alone.
func testInstall(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	if b.sharesUsers() {
		t.Skip("the root of the docker engine's sandboxes is read-only")
	}
	name := "tool-" + newID()
	install := "mkdir -p /usr/local/bin /usr/local/share/" + name + " && printf '#!/bin/bash\necho ran\n' >/usr/local/bin/" + name + " && chmod 755 /usr/local/bin/" + name + " && " + name
	equal(t, "installed", b.bash(install), "ran")
	equal(t, "replaced", b.bash("cp /usr/bin/env /usr/bin/env.new && mv -f /usr/bin/env.new /usr/bin/env && env true && rm /usr/bin/env && ! ls /usr/bin/env 2>/dev/null && echo gone"), "gone")
	if b.onImage() {
		equal(t, "what the image has is the sandbox's", b.bash("echo more >>/etc/passwd && tail -n 1 /etc/passwd && stat -c %u:%g /etc/passwd"), "more\n0:0")
	}
	for _, path := range []string{"/usr/local/bin/" + name, "/usr/local/share/" + name} {
		missing(t, path)
	}
	if _, err := os.Stat("/usr/bin/env"); err != nil {
		t.Error("what is removed in the sandbox is removed on the host:", err)
	}
}

func testHostFilesNotWritten(t *testing.T, newEngine Maker) {
	a, b := newBox(t, newEngine), newBox(t, newEngine)
	name := "left-" + newID()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/usr/bin", "/usr/local", "/etc", "/opt", "/var", "/var/lib", "/tmp", "/home", "/root", "/run", "/dev/shm", "/srv", "/mnt"} {
		// It may be refused, and where it is not, it stays in the sandbox.
		path := filepath.Join(dir, name)
		a.do(toolCall("bash", input{"command": "echo x >" + path}))
		missing(t, path)
		b.bad("bash", input{"command": "ls " + path})
	}
	// Changing what is there must not go through either. The change is one
	// that does no harm on the host of an engine that fails here.
	a.do(toolCall("bash", input{"command": "touch -c -d 2001-01-01 /usr/bin/env /etc/passwd /etc /usr"}))
	for _, path := range []string{"/usr/bin/env", "/etc/passwd", "/etc", "/usr"} {
		if info, err := os.Stat(path); err != nil || info.ModTime().Year() == 2001 {
			t.Errorf("the sandbox changed the host's %s (%v)", path, err)
		}
	}
	// The worker's own binary, which the sandbox's first process runs.
	a.do(toolCall("bash", input{"command": "for exe in /proc/1/exe /proc/self/exe; do echo x >>$exe; dd if=/dev/zero of=$exe conv=notrunc bs=1 count=1; done"}))
	after, err := os.Stat(self)
	if err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the worker's binary changed (%v)", err)
	}
	equal(t, "scratch is writable", a.bash("echo x >/tmp/x; echo x >$HOME/x; cat /tmp/x $HOME/x"), "x\nx")
}

func testWorkerEnvironmentHidden(t *testing.T, newEngine Maker) {
	// What this process was started with is what /proc would show.
	own, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		t.Fatal(err)
	}
	secret := newMarker()
	t.Setenv("HEARTH_ENVIRONMENT_KEY", secret)
	b := newBox(t, newEngine)
	seen := b.do(toolCall("bash", input{"command": "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"})).Text
	if strings.Contains(seen, secret) {
		t.Error("the sandbox sees the worker's environment")
	}
	for entry := range strings.SplitSeq(string(own), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		switch name {
		case "PATH", "HOME", "LANG", "TERM", "PWD", "SHLVL", "_", "":
			continue // a sandbox has its own, which may be equal
		}
		if len(value) > 3 && strings.Contains("\n"+seen, "\n"+entry+"\n") {
			t.Errorf("the sandbox sees the worker's %s", name)
		}
	}
	b.bad("bash", input{"command": "head -c 1 /proc/1/mem"})
	// No descriptor of the worker's was inherited.
	fds := b.bash("for f in /proc/[0-9]*/fd/*; do readlink $f; done 2>/dev/null | sort -u")
	for line := range strings.Lines(fds) {
		if strings.HasPrefix(line, b.state) || strings.HasPrefix(line, filepath.Dir(b.host)) {
			t.Errorf("an open file of the host's: %s", line)
		}
	}
}

func testNoNetwork(t *testing.T, newEngine Maker) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	name := "@" + newMarker()
	abstract, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	b := newBox(t, newEngine)
	b.installProbe()
	for _, to := range []string{
		"tcp " + tcp.Addr().String(),
		"unix " + name,
		"tcp 192.0.2.1:80",
		"udp 192.0.2.1:53",
		"tcp 169.254.169.254:80",
		"tcp [2001:db8::1]:80",
	} {
		if text := b.probe("dial " + to); strings.Contains(text, "connected") {
			t.Errorf("the sandbox reaches %s", to)
		}
	}
	equal(t, "its own loopback", strings.TrimSpace(b.probe("listen 127.0.0.1:0")), "connected")
	equal(t, "interfaces", b.bash("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo")
	contains(t, b.bash("cat /etc/hosts"), "127.0.0.1", "localhost")
}

// bearable are the capabilities a sandbox may have over what is its own: with
// them its root can handle its files and users, and nothing else.
const bearable = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
	1<<unix.CAP_KILL | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_NET_BIND_SERVICE

func testPrivileges(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	status := map[string]string{}
	for line := range strings.Lines(b.bash("cat /proc/self/status")) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.TrimSpace(value)
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		have, err := strconv.ParseUint(status[set], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if more := have &^ bearable; more != 0 {
			t.Errorf("%s has %x, which reaches further than its own files and users", set, more)
		}
	}
	equal(t, "no new privileges", status["NoNewPrivs"], "1")
	equal(t, "seccomp", status["Seccomp"], "2")
	equal(t, "the first process", b.bash("grep -E '^(NoNewPrivs|Seccomp):' /proc/1/status | tr -d '\\t'"), "NoNewPrivs:1\nSeccomp:2")
	// On every thread, and what it starts; without new privileges it gains none.
	equal(t, "the first process's capabilities", b.bash("cat /proc/1/task/*/status | grep -E '^Cap(Inh|Prm|Eff|Amb):' | sort -u"), b.bash("grep -E '^Cap(Inh|Prm|Eff|Amb):' /proc/self/status | sort -u"))
	// The user outside is not root, whoever it is inside.
	marker := newMarker()
	b.daemon(marker)
	for _, pid := range b.onHost(marker) {
		info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid == 0 || owner.Gid == 0 {
			t.Errorf("on the host it runs as %d:%d", owner.Uid, owner.Gid)
		}
	}
	for _, command := range []string{
		"mount -t tmpfs none /tmp", "umount /proc", "mount --bind /etc /tmp",
		"unshare -U true", "unshare -m true", "unshare -n true", "unshare -Ur true",
		"chroot / true", "mknod n b 8 0", "mknod n c 1 1", "nice -n -20 true 2>&1 | grep . && false",
	} {
		b.bad("bash", input{"command": command})
	}
	// Nor do its files come to belong to others outside.
	b.bash("touch theirs")
	before := owner(t, b.hostPath("theirs"))
	b.do(toolCall("bash", input{"command": "chown 999999:999999 theirs"}))
	equal(t, "the owner on the host", owner(t, b.hostPath("theirs")), before)
}

// owner is the user and group of a file on the host.
func owner(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", stat.Uid, stat.Gid)
}

// foreign is a 32-bit program that asks to be traced, by the old system call
// gate and so by another table than the filter's usual one, and exits with 42
// when that worked.
var foreign = []byte{
	0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 32-bit, little endian
	2, 0, 3, 0, 1, 0, 0, 0, 0x54, 0x80, 0x04, 0x08, 52, 0, 0, 0, // an executable for 386, entry
	0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0,
	1, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x80, 0x04, 0x08, 0x00, 0x80, 0x04, 0x08, // one segment
	0x75, 0, 0, 0, 0x75, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0,
	0xb8, 26, 0, 0, 0, // mov eax, ptrace
	0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2, 0x31, 0xf6, // zero ebx, ecx, edx, esi
	0xcd, 0x80, // int 0x80
	0x85, 0xc0, // test eax, eax
	0xbb, 42, 0, 0, 0, // mov ebx, 42
	0x74, 0x02, // je over
	0x31, 0xdb, // xor ebx, ebx
	0xb8, 1, 0, 0, 0, // mov eax, exit
	0xcd, 0x80, // int 0x80
}

// A filter on system call numbers is worth nothing if the same call can be
// made by another table's number.
func testForeignSyscallTables(t *testing.T, newEngine Maker) {
	if runtime.GOARCH != "amd64" {
		t.Skip("only amd64 has several system call tables")
	}
	b := newBox(t, newEngine)
	b.installProbe()
	if text := b.probe("x32"); strings.Contains(text, "traced") {
		t.Error("the x32 table is not filtered")
	}
	b.put("foreign", foreign)
	if err := os.Chmod(b.hostPath("foreign"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := b.do(toolCall("bash", input{"command": "./foreign; echo ended $?"}))
	if strings.Contains(r.Text, "ended 42") {
		t.Error("the 32-bit table is not filtered")
	}
	err := exec.Command(b.hostPath("foreign")).Run()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 42 {
		t.Skipf("this host runs no 32-bit programs, so the sandbox could not either: %v", err)
	}
}

func testDevices(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.bash("echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; test -c /dev/full; test -e /dev/ptmx; test -d /dev/pts; test -d /dev/shm; echo x >/dev/shm/x; test -e /dev/fd/1")
	for _, name := range []string{"mem", "kmem", "kmsg", "port", "kvm", "fuse", "net/tun", "vda", "sda", "nvme0n1", "loop0", "loop-control", "tty1", "tty0", "console", "vsock", "userfaultfd", "mapper/control"} {
		b.bad("bash", input{"command": "(exec 3</dev/" + name + ") || exit 1"})
	}
	equal(t, "block devices", b.bash("find /dev -type b | wc -l"), "0")
	if b.engine.Name() != "namespace" || os.Getuid() != 0 {
		return // they are others' to make, and none but root can
	}
	lock := "for d in null zero full random urandom; do flock -n /dev/$d true && echo $d; done"
	b.bash("for d in null zero full random urandom; do flock -n /dev/$d sleep 60 >/tmp/out 2>&1 & done; sleep 0.2")
	equal(t, "locks of the neighbour's devices", newBox(t, newEngine).bash(lock), "null\nzero\nfull\nrandom\nurandom")
}

func testKernelInterfaces(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	paths := []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches",
		"/proc/sys/fs/binfmt_misc/register", "/proc/irq/0/smp_affinity",
		"/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/release_agent",
	}
	if !b.guest() { // a guest's act on the guest
		paths = append(paths, "/proc/sysrq-trigger", "/proc/sys/kernel/hostname")
	}
	for _, path := range paths {
		// Opened only: an engine that fails here shall not cost the host more.
		b.bad("bash", input{"command": "[ $(stat -c %t:%T " + path + ") != 1:3 ] && true 3>>" + path})
	}
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg", "/proc/sched_debug", "/proc/scsi/scsi"} {
		if r := b.do(toolCall("bash", input{"command": "head -c 16 " + path + " 2>/dev/null | wc -c"})); strings.TrimSpace(r.Text) != "0" {
			t.Errorf("%s can be read", path)
		}
	}
}

// A file made set-user-id in the sandbox must not be one for the host's root.
func testWorkdirSetuid(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.do(toolCall("bash", input{"command": "cp /bin/true tool; chown 0:0 tool; chmod 6755 tool"}))
	info, err := os.Stat(b.hostPath("tool"))
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if owner.Uid == 0 && info.Mode()&os.ModeSetuid != 0 || owner.Gid == 0 && info.Mode()&os.ModeSetgid != 0 {
		t.Errorf("the sandbox made a %v file of %d:%d on the host", info.Mode(), owner.Uid, owner.Gid)
	}
	// And one the host has gives nothing inside.
	equal(t, "no gain", b.bash("cp /usr/bin/id tool; chmod 4755 tool; ./tool -u"), b.bash("id -u"))
}

// A sandbox that gives its workdir to another of its users does not come to be
// other users of the host's.
func testHostUserStays(t *testing.T, newEngine Maker) {
	work, state := filepath.Join(t.TempDir(), "work"), t.TempDir()
	engine := newEngine(state)
	user := func() string {
		b := createBox(t, engine, state, sandbox.Spec{Workdir: work})
		b.bash("rm -f mine; touch mine")
		by := owner(t, b.hostPath("mine"))
		b.do(toolCall("bash", input{"command": "chown 5:5 ."}))
		if err := b.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		return by
	}
	if first, second := user(), user(); first != second {
		t.Errorf("at first the host's user %s, then %s", first, second)
	}
}

func testKillEverything(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.do(toolCall("bash", input{"command": "kill -9 -1"}))
	b.do(toolCall("bash", input{"command": "for signal in {1..64}; do kill -$signal 1; done; true"}))
	equal(t, "alive", b.bash("echo alive"), "alive")
}

func testOrphansReaped(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.bash("for i in $(seq 100); do (setsid sh -c 'exit 3' &) ; done")
	zombies := "cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f3 | grep -c Z || true"
	eventually(t, "no dead process waits", func() bool { return b.bash(zombies) == "0" })
	// The children of the tools are not taken from under them.
	for range 20 {
		contains(t, b.bad("bash", input{"command": "(setsid true &); sh -c 'exit 5'"}), "exit code: 5")
		b.do(toolCall("grep", input{"pattern": "x"}))
	}
}

func testProcessLimit(t *testing.T, newEngine Maker) {
	few := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{OpenFiles: 100}})
	equal(t, "open files", few.bash("ulimit -n; ulimit -Hn"), "100\n100")

	const limit = 60
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{Processes: limit}})
	marker := newMarker()
	// A shell that cannot fork tries for a while, so it is cut off; another, that
	// is not under it, counts meanwhile.
	counter := "while [ ! -e stop ]; do n=0; for f in /proc/[0-9]*/cmdline; do name=; read -r -d '' name <$f; [[ $name == " + marker + "* ]] && n=$((n+1)); done 2>/dev/null; echo $n >>counts; done"
	b.bash("(" + counter + ") & true")
	b.do(toolCall("bash", input{"command": "for i in {1..200}; do (exec -a " + marker + " sleep 100000) & done; true", "timeout_ms": 2000}))
	most := 0
	for line := range strings.Lines(b.get("counts")) {
		n, _ := strconv.Atoi(strings.TrimSpace(line))
		most = max(most, n)
	}
	allowed := limit
	if b.sharesUsers() && os.Getuid() != 0 {
		allowed += 100 // its user is not its own, so that they are counted with the hand's threads, for which there is room
	}
	if most == 0 || most >= allowed {
		t.Errorf("%d processes ran under a limit of %d", most, limit)
	}
	b.do(toolCall("bash", input{"restart": true}))
	b.ok("write", input{"file_path": "after", "content": "the hand still works"})
}

// Destroy removes scratch, however the sandbox left it.
func testStubbornScratch(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	marker := newMarker()
	b.do(toolCall("bash", input{"command": "for d in /usr/local /etc /opt /tmp /var/lib; do echo x >$d/" + marker + "; done"}))
	for _, dir := range []string{"/usr/local", "/etc", "/opt", "/tmp", "/var/lib"} {
		if os.Remove(filepath.Join(dir, marker)) == nil {
			t.Fatalf("what the sandbox writes to %s is on the host", dir)
		}
	}
	b.do(toolCall("bash", input{"command": `for d in /usr/local /etc /opt /tmp $HOME /var/lib; do
		mkdir -p $d/locked/in; echo x >$d/locked/in/f; ln -s /etc $d/locked/in/link; chmod 000 $d/locked/in $d/locked
	done
	chattr +i /usr/local/immutable 2>/dev/null
	cd /usr/local; for i in $(seq 60); do mkdir $(printf 'n%.0s' {1..200}) && cd n*; done 2>/dev/null; true`}))
	if err := b.Destroy(context.Background()); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	leftNothing(t, b.engine, b.state, b.ID(), marker)
	for dir := range entries(t, b.state) {
		if strings.Contains(dir, "locked") {
			t.Errorf("left: %s", dir)
		}
	}
}

// entries walks a directory without stopping at what cannot be read.
func entries(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	_ = filepath.WalkDir(root, func(path string, _ os.DirEntry, _ error) error {
		found[path] = true
		return nil
	})
	return found
}
