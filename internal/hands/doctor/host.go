package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox/hostroot"
)

// host tells what this machine is, and who we are on it.
func host() []Finding {
	return []Finding{kernel(), user(), container()}
}

func kernel() Finding {
	const name = "kernel"
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return failure(name, "run the worker on Linux", "the kernel does not tell its version: %v", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	text := fmt.Sprintf("Linux %s on %s", release, unix.ByteSliceToString(u.Machine[:]))
	const fix = "run a kernel of 5.13 or later"
	switch {
	case !slices.Contains([]string{"amd64", "arm64"}, runtime.GOARCH):
		return failure(name, "use a machine of amd64 or arm64", "%s; the system call filter knows amd64 and arm64 only", text)
	case older(release, 5, 2):
		return failure(name, fix, "%s; gVisor sandboxes are mounted by calls that came with 5.2", text)
	case older(release, 5, 11):
		return warning(name, fix, "%s; overlays in user namespaces came with 5.11: in namespace sandboxes, system directories are read-only", text)
	case older(release, 5, 13):
		return warning(name, fix, "%s; Landlock came with 5.13", text)
	}
	return good(name, "%s", text)
}

// older tells whether a kernel's release comes before a version.
func older(release string, major, minor int) bool {
	var have [2]int
	_, _ = fmt.Sscanf(release, "%d.%d", &have[0], &have[1]) // always so on Linux
	return slices.Compare(have[:], []int{major, minor}) < 0
}

// status is what the kernel says of this process in /proc/self/status.
func status() map[string]string {
	raw, _ := os.ReadFile("/proc/self/status") // this program does not start without /proc
	fields := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

// rights are the capabilities root needs to give each session users of its own.
var rights = map[int]string{
	unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_FOWNER: "CAP_FOWNER", unix.CAP_KILL: "CAP_KILL",
	unix.CAP_SETGID: "CAP_SETGID", unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
}

func user() Finding {
	const name = "user"
	if uid := os.Getuid(); uid != 0 {
		return good(name, "an ordinary user (%d): root in every sandbox is this user, and there are no others in it", uid)
	}
	const fix = "run the worker as root of the host, or as an ordinary user: sudo -u SOMEBODY hearth worker …"
	mask, err := strconv.ParseUint(status()["CapEff"], 16, 64)
	var missing []string
	for bit, name := range rights {
		if err == nil && mask&(1<<bit) == 0 {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		return warning(name, fix, "root without %s: it may fail to give sessions users of their own", list(missing))
	}
	if n := mapped(); n <= hostroot.LastUser {
		return warning(name, fix, "root of a user namespace with %d users: those of sessions, up to %d, are not among them", n, hostroot.LastUser)
	}
	return good(name, "root: each session has users of its own")
}

// mapped counts the users there are in our user namespace, from 0 on.
func mapped() uint64 {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 1 << 32 // as before there were user namespaces
	}
	var most uint64
	for line := range strings.Lines(string(raw)) {
		var inside, outside, count uint64
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n == 3 {
			most = max(most, inside+count)
		}
	}
	return most
}

// containerFix is what a container must be given to hold a worker.
const containerFix = "docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined …; or one container a session, with: hearth worker run --engine process"

// container tells whether this is one, and what that takes from us.
func container() Finding {
	const name = "container"
	kind := containerKind()
	var lacks []string
	if status()["Seccomp"] == "2" {
		lacks = append(lacks, "its system calls are filtered")
	}
	if n := covered(); n > 0 {
		lacks = append(lacks, fmt.Sprintf("%d places of /proc are covered", n))
	}
	switch {
	case kind == "" && len(lacks) == 0:
		return good(name, "this is none")
	case kind == "":
		return good(name, "this is none, but of this process %s", list(lacks))
	case len(lacks) == 0:
		return good(name, "this is one (%s), with all the rights a worker needs", kind)
	}
	return warning(name, containerFix, "this is one (%s): %s, which may keep sandboxes from starting", kind, list(lacks))
}

// containerKind is what has made the container we are in, empty for none.
func containerKind() string {
	for path, kind := range map[string]string{"/.dockerenv": "docker", "/run/.containerenv": "podman"} {
		if _, err := os.Stat(path); err == nil {
			return kind
		}
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return "kubernetes"
	}
	if raw, err := os.ReadFile("/run/systemd/container"); err == nil {
		return strings.TrimSpace(string(raw))
	}
	return os.Getenv("container") // as systemd and LXC have it
}

// covered counts the mounts over parts of /proc, which keep a user namespace
// from having a /proc of its own.
func covered() int {
	n := 0
	for _, m := range mounts() {
		if strings.HasPrefix(m.point, "/proc/") && m.kind != "binfmt_misc" && m.kind != "autofs" {
			n++
		}
	}
	return n
}

// mount is a line of /proc/self/mountinfo.
type mount struct{ root, point, kind, options, super string }

func mounts() []mount {
	raw, _ := os.ReadFile("/proc/self/mountinfo") // this program does not start without /proc
	var all []mount
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(raw)) {
		before, after, ok := strings.Cut(line, " - ")
		place, source := strings.Fields(before), strings.Fields(after)
		if ok && len(place) >= 6 && len(source) >= 3 {
			all = append(all, mount{unescape.Replace(place[3]), unescape.Replace(place[4]), source[0], place[5], source[2]})
		}
	}
	return all
}

// programs looks for what tools and sandboxes start.
func programs() []Finding {
	found := []Finding{good("bash", "/bin/bash")}
	if _, err := os.Stat("/bin/bash"); err != nil {
		found[0] = failure("bash", "apt-get install bash", "there is no /bin/bash, which every session's shell is")
	}
	for _, p := range []struct{ name, use string }{{"git", "sessions cannot use repositories"}, {"tar", "archives cannot be unpacked"}} {
		path, err := exec.LookPath(p.name)
		switch {
		case err == nil:
			found = append(found, good(p.name, "%s", path))
		case errors.Is(err, exec.ErrNotFound):
			found = append(found, warning(p.name, "apt-get install "+p.name, "there is none: %s", p.use))
		default:
			found = append(found, warning(p.name, "apt-get install --reinstall "+p.name, "cannot be run: %v", err))
		}
	}
	return found
}
