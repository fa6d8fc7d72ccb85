package doctor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hearth/test/build"
)

// program is hearth itself, statically linked, where every user can run it.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "doctor-test-") // not t.TempDir, which only its owner may enter
	if err == nil {
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "hearth")
		err = errors.Join(build.Link(context.Background(), "hearth/cmd/hearth", program), os.Chmod(dir, 0o755))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// finding and report are the JSON that scripts depend on.
type finding struct {
	Group   string `json:"group"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
	Millis  int64  `json:"took_ms"`
}

type report struct {
	Status   string    `json:"status"`
	Findings []finding `json:"checks"`
	text     string
	code     int
}

// shell is how hearth doctor is run: after a preparation, by a user, with more
// in its environment.
type shell struct {
	unshare string // flags of unshare; empty to run where the test does
	before  string // what a shell does first
	uid     int    // 0 for the user of the test
	env     []string
}

// doctor runs hearth doctor. It makes sure of what is true of every report.
func (s shell) doctor(t *testing.T, args ...string) report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	script := `exec "$0" doctor -o json "$@"`
	if s.before != "" {
		script = "set -e; " + s.before + "; " + script
	}
	line := append([]string{"sh", "-c", script, program}, args...)
	if s.unshare != "" {
		line = append(append([]string{"unshare"}, strings.Fields(s.unshare)...), line...)
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/"}, s.env...)
	cmd.Dir = "/"
	if s.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(s.uid)}}
	}
	var out, notes bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &notes
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := report{text: out.String(), code: cmd.ProcessState.ExitCode()}
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("exit code %d, %v: %s\n%s", r.code, err, notes.String(), r.text)
	}
	r.check(t)
	return r
}

// check makes sure of what is true of every report.
func (r report) check(t *testing.T) {
	t.Helper()
	worst, order := "skipped", []string{"skipped", "ok", "warn", "fail"}
	for _, f := range r.Findings {
		if f.Group == "" || f.Name == "" || f.Message == "" || !slices.Contains(order, f.Status) {
			t.Errorf("not a whole finding: %+v", f)
		}
		if bad := f.Status == "warn" || f.Status == "fail"; bad != (f.Fix != "") {
			t.Errorf("%s with the fix %q: %+v", f.Status, f.Fix, f)
		}
		if strings.ContainsAny(f.Message+f.Fix, "\n\t\x1b") {
			t.Errorf("more than a line: %+v", f)
		}
		if slices.Index(order, f.Status) > slices.Index(order, worst) {
			worst = f.Status
		}
	}
	if wantCode := map[string]int{"fail": 1}[worst]; r.Status != worst || r.code != wantCode {
		t.Errorf("status %s and exit code %d, but the worst finding is %s", r.Status, r.code, worst)
	}
}

// find returns the finding of that name in a group.
func (r report) find(t *testing.T, group, name string) finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Group == group && f.Name == name {
			return f
		}
	}
	t.Fatalf("nothing about %s, %s:\n%s", group, name, r.text)
	return finding{}
}

// want makes sure that a finding is there, and of what it and its fix say.
func (r report) want(t *testing.T, group, name, status, says, fix string) {
	t.Helper()
	f := r.find(t, group, name)
	if f.Status != status || !strings.Contains(f.Message, says) || !strings.Contains(f.Fix, fix) {
		t.Errorf("%s, %s: %s %q → %q\nwant %s …%q… → …%q…", group, name, f.Status, f.Message, f.Fix, status, says, fix)
	}
}

// needRoot skips what only root can prepare.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can prepare this")
	}
}

// needNamespaces skips where nobody can make a user namespace.
func needNamespaces(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("unshare", "--user", "--map-root-user", "true").CombinedOutput(); err != nil {
		t.Skipf("no user namespaces here: %v: %s", err, out)
	}
}

func mountsHere(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}

func TestHealthyHost(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	dir := t.TempDir()
	before := mountsHere(t)
	r := shell{}.doctor(t, "--state", filepath.Join(dir, "deep", "er"))
	for _, c := range [][2]string{
		{"Host", "kernel"}, {"Host", "bash"}, {"Isolation", "user namespaces"}, {"Isolation", "namespaces"}, {"Isolation", "mounts"},
		{"Isolation", "a /proc of its own"}, {"Isolation", "seccomp"}, {"State", "directory"},
	} {
		r.want(t, c[0], c[1], "ok", "", "")
	}
	r.want(t, "Engines", "gvisor", "ok", "sessions get this one", "")
	r.want(t, "Engines", "namespace", "ok", "a command ran in it", "")
	r.want(t, "Engines", "process", "ok", "a command ran in it", "")
	r.want(t, "Server", "address", "skipped", "--base-url", "")
	if f := r.find(t, "Engines", "gvisor"); f.Millis == 0 {
		t.Errorf("it does not say how long gVisor took: %+v", f)
	}
	if left := entries(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if after := mountsHere(t); after != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, after)
	}
}

func TestClearsAwayWhatADoctorThatWasKilledLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, held, fresh := filepath.Join(dir, ".hearth-doctor-1"), filepath.Join(dir, ".hearth-doctor-2"), filepath.Join(dir, ".hearth-doctor-3")
	for _, d := range []string{old, held, fresh} {
		if err := os.MkdirAll(filepath.Join(d, "scratch"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-time.Hour)
	for _, d := range []string{old, held} {
		if err := os.Chtimes(d, long, long); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.Open(held)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	shell{}.doctor(t, "--state", dir, "--engine", "process")
	if left := entries(t, dir); !slices.Equal(left, []string{filepath.Base(held), filepath.Base(fresh)}) {
		t.Errorf("left: %q; want that which is held and that which is new", left)
	}
}

const nobody = 65534

func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := filepath.Join(filepath.Dir(program), "state of nobody")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	r := shell{uid: nobody}.doctor(t, "--state", dir)
	r.want(t, "Host", "user", "ok", "an ordinary user (65534)", "")
	if r.find(t, "Isolation", "user namespaces").Status == "ok" {
		r.want(t, "Engines", "gvisor", "ok", "a command ran in it", "")
		r.want(t, "Engines", "namespace", "ok", "a command ran in it", "")
	}
	r.want(t, "Limits", "limits", "warn", "permission denied", "")
	if left := entries(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	// Root's directory is not his to write to.
	mine := filepath.Join(filepath.Dir(program), "state of root")
	if err := os.Mkdir(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	r = shell{uid: nobody}.doctor(t, "--state", mine)
	r.want(t, "State", "directory", "fail", "may not write", "sudo install -d -m 711 -o 65534 -g 65534 '"+mine+"'")
	r.want(t, "Engines", "gvisor", "skipped", "permission denied", "")
}

func TestUserNamespacesOff(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	off := shell{unshare: "--user --map-root-user", before: "echo 0 >/proc/sys/user/max_user_namespaces"}
	r := off.doctor(t, "--state", t.TempDir())
	r.want(t, "Isolation", "user namespaces", "fail", "user.max_user_namespaces is 0", "sudo sysctl user.max_user_namespaces=15000")
	r.want(t, "Isolation", "namespaces", "skipped", "", "")
	r.want(t, "Isolation", "overlayfs", "skipped", "", "")
	r.want(t, "Engines", "gvisor", "fail", "", "--engine")
	r.want(t, "Engines", "namespace", "fail", "user namespaces are switched off", "--engine")
	r.want(t, "Engines", "process", "ok", "", "")
	r.want(t, "Host", "user", "warn", "a user namespace with 1 users", "as root of the host")

	// Who wants no isolation lacks nothing he has asked for.
	r = off.doctor(t, "--state", t.TempDir(), "--engine", "process")
	r.want(t, "Isolation", "user namespaces", "warn", "max_user_namespaces is 0", "sysctl")
	r.want(t, "Engines", "namespace", "warn", "was not asked for", "--engine")
	r.want(t, "Engines", "process", "ok", "sessions get this one", "")
	if r.code != 0 {
		t.Errorf("exit code %d:\n%s", r.code, r.text)
	}
}

func TestWithoutProc(t *testing.T) {
	t.Parallel()
	needRoot(t)
	out, err := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /proc; exec "$0" doctor`, program).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "hearth: /proc is not mounted") || strings.Contains(string(out), "panic") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCoveredProc(t *testing.T) {
	t.Parallel()
	needRoot(t)
	// As container engines do it: then a user namespace can have no /proc.
	r := shell{unshare: "--mount", before: "mount -t tmpfs none /proc/irq"}.doctor(t, "--state", t.TempDir())
	r.want(t, "Isolation", "a /proc of its own", "warn", "covered", "systempaths=unconfined")
	r.want(t, "Isolation", "overlayfs", "ok", "", "")
	r.want(t, "Engines", "gvisor", "ok", "sessions get this one", "") // whose guests' /proc is its own
	r.want(t, "Engines", "namespace", "warn", "so sessions get gvisor", "--engine")
	if f := r.find(t, "Host", "container"); !strings.Contains(f.Message, "1 places of /proc are covered") {
		t.Errorf("%+v", f)
	}
}

func TestStateDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, c := range map[string]struct {
		before string
		want   func(t *testing.T, r report)
	}{
		"full": {"mount -t tmpfs -o size=1m none $D; head -c 2000000 /dev/zero >$D/fill 2>/dev/null || true", func(t *testing.T, r report) {
			r.want(t, "State", "directory", "fail", "no space left", "make room")
			r.want(t, "State", "space", "fail", "0 bytes free of 1.0 MiB", "--state")
			r.want(t, "State", "file system", "warn", "tmpfs: sessions' files take memory", "ext4")
		}},
		"no inodes": {"mount -t tmpfs -o nr_inodes=1 none $D", func(t *testing.T, r report) {
			r.want(t, "State", "directory", "fail", "no space left", "make room")
			r.want(t, "State", "inodes", "fail", "0 free", "remove small files")
			r.want(t, "Engines", "process", "skipped", "nothing can be written", "")
		}},
		"read only": {"mount -t tmpfs -o ro none $D", func(t *testing.T, r report) {
			r.want(t, "State", "directory", "fail", "can only be read", "--state")
			r.want(t, "State", "file system", "fail", "read only", "remount,rw")
		}},
		"noexec": {"mount -t tmpfs -o noexec none $D", func(t *testing.T, r report) {
			r.want(t, "State", "file system", "warn", "noexec", "remount,exec")
		}},
		"a file": {"mount -t tmpfs none $D; >$D/below", func(t *testing.T, r report) {
			r.want(t, "State", "directory", "fail", "not a directory", "--state")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			state := dir
			if name == "a file" {
				state = filepath.Join(dir, "below", "it")
			}
			c.want(t, shell{unshare: "--mount", before: c.before, env: []string{"D=" + dir}}.doctor(t, "--state", state, "--engine", "process"))
		})
	}
}

func TestControlGroups(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, c := range map[string]struct{ before, groups, says, bounds, fix string }{
		"none":    {"mount -t tmpfs none /sys/fs/cgroup", "warn", "none are mounted", "CPU, memory and processes of a session cannot", "mount -t cgroup2"},
		"v2 only": {"mount -t tmpfs none /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup", "ok", "v2 with", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := shell{unshare: "--mount", before: c.before}.doctor(t, "--state", t.TempDir(), "--engine", "process")
			r.want(t, "Limits", "control groups", c.groups, c.says, "")
			if c.bounds != "" {
				r.want(t, "Limits", "limits", "warn", c.bounds, c.fix)
			}
		})
	}
	t.Run("read only", func(t *testing.T) {
		t.Parallel()
		// As a container without rights of its own sees them.
		before := `for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do if mountpoint -q "$d"; then mount -o remount,bind,ro "$d"; fi; done`
		r := shell{unshare: "--mount", before: before}.doctor(t, "--state", t.TempDir(), "--engine", "process")
		r.want(t, "Limits", "limits", "warn", "read-only file system", "")
	})
}

func TestFewResources(t *testing.T) {
	t.Parallel()
	r := shell{before: "ulimit -n 300"}.doctor(t, "--state", t.TempDir(), "--engine", "process", "--max-sessions", "100000", "--pool", "0")
	r.want(t, "Limits", "open files", "fail", "at most 300, but 100000 sandboxes", "LimitNOFILE=65536")
	r.want(t, "Limits", "processes", "warn", "100000 sandboxes", "")
	r.want(t, "Limits", "memory", "warn", "100000 sandboxes", "--max-sessions")
}

// TestFilesOfAll: sessions on the host's kernel could leave the rest of it no files.
func TestFilesOfAll(t *testing.T) {
	t.Parallel()
	args := []string{"--state", t.TempDir(), "--engine", "namespace", "--pool", "0", "--memory", "1GiB"}
	r := shell{}.doctor(t, append(args, "--max-sessions", "2000000000", "--processes", "1000000", "--open-files", "1000000")...)
	if raw, err := os.ReadFile("/proc/sys/fs/file-max"); err == nil && len(raw) < len("9223372036854775807") {
		r.want(t, "Limits", "files of all", "warn", "sandboxes may have some", "fs.file-max=")
	}
	r = shell{}.doctor(t, append(args, "--max-sessions", "1", "--processes", "16", "--open-files", "64")...)
	r.want(t, "Limits", "files of all", "ok", "fs.file-max", "")
}
