package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// isolation tries, one by one, the walls the kernel can put around a session.
func isolation(ctx context.Context, at scratch) []Finding {
	users := userNamespaces(ctx)
	return append([]Finding{users}, append(within(ctx, at, users.Status == OK), landlock(), sealing())...)
}

// userNamespaces tries whether we may make one.
func userNamespaces(ctx context.Context) Finding {
	const name = "user namespaces"
	err := probe(ctx, unix.CLONE_NEWUSER, "/").Run()
	if err == nil {
		return good(name, "may be made, up to %s", setting("user/max_user_namespaces"))
	}
	lasting := func(set string) string {
		return fmt.Sprintf("sudo sysctl %s   (to keep it: echo %s | sudo tee /etc/sysctl.d/90-hearth.conf)", set, set)
	}
	switch {
	case setting("user/max_user_namespaces") == "0":
		return failure(name, lasting("user.max_user_namespaces=15000"), "switched off: user.max_user_namespaces is 0")
	case setting("kernel/unprivileged_userns_clone") == "0" && os.Getuid() != 0:
		return failure(name, lasting("kernel.unprivileged_userns_clone=1"), "ordinary users may not make any: kernel.unprivileged_userns_clone is 0")
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1" && os.Getuid() != 0:
		return failure(name, lasting("kernel.apparmor_restrict_unprivileged_userns=0"), "AppArmor keeps ordinary users from making any")
	case containerKind() != "":
		return failure(name, containerFix, "the container's rights do not allow any: %v", err)
	}
	return failure(name, "give the process the rights to make one; by hand: unshare --user --map-root-user true", "the kernel refuses: %v", err)
}

// setting reads a setting of the kernel, empty when there is none of that name.
func setting(name string) string {
	raw, _ := os.ReadFile("/proc/sys/" + name) // absent on most kernels
	return strings.TrimSpace(string(raw))
}

// probe is this program, started as the entry of that name in new namespaces,
// root there.
func probe(ctx context.Context, namespaces uintptr, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Dir, cmd.WaitDelay = []string{entry}, []string{}, dir, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: namespaces, Setsid: true,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// namespaces are those a sandbox has of its own.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// steps are what is tried inside new namespaces, and what its failure means.
var steps = []struct {
	name, can      string
	bad            func(name, fix, format string, args ...any) Finding
	fix, otherwise string
}{
	{stepMounts, "file systems can be mounted and moved", failure, containerFix, "sandboxes cannot have a root of their own"},
	{stepOverlay, "can lie on the state directory", warning, "put --state on ext4, xfs or btrfs, and run a kernel of 5.11 or later with overlayfs: sudo modprobe overlay", "in namespace sandboxes, system directories are read-only"},
	{stepProc, "can be mounted for a sandbox", failure, containerFix, "parts of this host's are covered, so sandboxes cannot have their own"},
	{stepSeccomp, "our filter of system calls can be loaded", failure, "run a kernel with CONFIG_SECCOMP_FILTER", "sandboxes cannot be kept from dangerous system calls"},
}

// within tries what sandboxes are made of, inside namespaces like theirs.
func within(ctx context.Context, at scratch, users bool) []Finding {
	const name = "namespaces"
	var found []Finding
	skip := func(why string) []Finding {
		for _, s := range steps {
			found = append(found, skipped(s.name, "%s", why))
		}
		return found
	}
	switch {
	case !users:
		found = append(found, skipped(name, "they need a user namespace"))
		return skip("it needs namespaces")
	case at.dir == "":
		found = append(found, skipped(name, "they are tried in the state directory"))
		return skip("it is tried in the state directory")
	}
	raw, err := probe(ctx, namespaces, at.dir).Output()
	outcome := map[string]string{}
	if err == nil {
		err = json.Unmarshal(raw, &outcome)
	}
	if err != nil {
		fix := "run a kernel that has all of them; by hand: unshare --user --map-root-user --mount --pid --net --ipc --uts --cgroup --fork true"
		if containerKind() != "" {
			fix = containerFix
		}
		found = append(found, failure(name, fix, "the kernel refuses some of those for mounts, processes, network, IPC, host name and cgroups: %v%s", err, stderrOf(err)))
		return skip("it needs namespaces")
	}
	found = append(found, good(name, "mounts, processes, network, IPC, host name and cgroups"))
	for _, s := range steps {
		if text := outcome[s.name]; text != "" {
			found = append(found, s.bad(s.name, s.fix, "%s: %s", s.otherwise, text))
		} else {
			found = append(found, good(s.name, "%s", s.can))
		}
	}
	return found
}

// stderrOf is what a process that failed had to say.
func stderrOf(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || len(exit.Stderr) == 0 {
		return ""
	}
	return ": " + string(exit.Stderr)
}

// gains are what versions of Landlock let a sandbox be kept from, of that which
// the engines use.
var gains = []struct {
	abi  int
	what string
}{{1, "opening files"}, {2, "moving them between directories"}, {3, "truncating them"}, {5, "control calls to devices"}}

func landlock() Finding {
	const name = "Landlock"
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return warning(name, "run a kernel of 5.13 or later, with lsm=landlock,… on its command line", "not there (%v): behind the mounts of a namespace sandbox stands no second wall", err)
	}
	var has, lacks []string
	for _, g := range gains {
		if abi >= g.abi {
			has = append(has, g.what)
		} else {
			lacks = append(lacks, g.what)
		}
	}
	if len(lacks) > 0 {
		return warning(name, "run a kernel of 6.10 or later", "ABI %d: a second wall against %s, but not against %s", abi, list(has), list(lacks))
	}
	return good(name, "ABI %d: a second wall against %s", abi, list(has))
}

// sealing tries memory that nobody can change, in which the program runs when
// its file belongs to the worker's own user.
func sealing() Finding {
	const name = "sealed memory"
	fd, err := unix.MemfdCreate("hearth-doctor", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return warning(name, "run a kernel of 3.17 or later with CONFIG_MEMFD_CREATE, or let root own the program: sudo chown root hearth", "memfd_create does not work (%v): an ordinary user's worker cannot protect its own program", err)
	}
	return good(name, "works")
}
