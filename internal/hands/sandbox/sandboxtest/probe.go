package sandboxtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// installProbe puts this very test binary into the workdir, to be run there as
// a probe: tools that make the raw system calls are not on every host.
func (b *box) installProbe() {
	b.t.Helper()
	if err := copyProgram("/proc/self/exe", b.hostPath("probe")); err != nil {
		b.t.Fatal(err)
	}
}

// probe runs the installed probe in the sandbox and returns what it says,
// whether or not it is killed for it.
func (b *box) probe(args string) string {
	b.t.Helper()
	return b.do(toolCall("bash", input{"command": "./probe " + roleProbe + " " + args})).Text
}

func runProbe(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "syscalls":
		probeSyscalls()
		return nil
	case len(args) == 1 && args[0] == "nonblock":
		return unix.SetNonblock(1, true)
	case len(args) == 3 && args[0] == "dial":
		c, err := net.DialTimeout(args[1], args[2], 2*time.Second)
		if err != nil {
			return err
		}
		fmt.Println("connected")
		return c.Close()
	case len(args) == 2 && args[0] == "listen":
		return probeLoopback(args[1])
	case len(args) == 3 && args[0] == "exchange":
		return probeExchange(args[1], args[2])
	case len(args) == 1 && args[0] == "x32":
		// The same call by the number of the x32 table.
		const x32 = 0x40000000
		if _, _, errno := unix.Syscall6(x32|521 /* ptrace */, unix.PTRACE_TRACEME, 0, 0, 0, 0, 0); errno != 0 {
			return errno
		}
		fmt.Println("traced")
		return nil
	}
	return fmt.Errorf("probe: no such probe: %q", args)
}

// probeExchange swaps two names, as fast as can be, until a file called stop is
// made beside them.
func probeExchange(a, b string) error {
	for n := 0; ; n++ {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("exchange: %w", err)
		}
		if _, err := os.Stat("stop"); err == nil && n%2 == 1 {
			fmt.Println("exchanged")
			return nil
		}
	}
}

// probeLoopback serves and dials itself.
func probeLoopback(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	fmt.Println("connected")
	return c.Close()
}

// deniedCalls are refused before their arguments are looked at. They are made
// with arguments that do nothing where they are not refused, and then fail
// with another error, or not at all.
var deniedCalls = []struct {
	name string
	nr   uintptr
	arg  uintptr
}{
	{"mount", unix.SYS_MOUNT, 0},
	{"umount2", unix.SYS_UMOUNT2, 0},
	{"pivot_root", unix.SYS_PIVOT_ROOT, 0},
	{"chroot", unix.SYS_CHROOT, 0},
	{"open_tree", unix.SYS_OPEN_TREE, 0},
	{"move_mount", unix.SYS_MOVE_MOUNT, 0},
	{"fsopen", unix.SYS_FSOPEN, 0},
	{"fsconfig", unix.SYS_FSCONFIG, ^uintptr(0)},
	{"fsmount", unix.SYS_FSMOUNT, ^uintptr(0)},
	{"fspick", unix.SYS_FSPICK, ^uintptr(0)},
	{"mount_setattr", unix.SYS_MOUNT_SETATTR, ^uintptr(0)},
	{"unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
	{"setns", unix.SYS_SETNS, ^uintptr(0)},
	{"clone3", unix.SYS_CLONE3, 0},
	{"ptrace", unix.SYS_PTRACE, unix.PTRACE_TRACEME},
	{"bpf", unix.SYS_BPF, ^uintptr(0)},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0},
	{"keyctl", unix.SYS_KEYCTL, 0},
	{"add_key", unix.SYS_ADD_KEY, 0},
	{"request_key", unix.SYS_REQUEST_KEY, 0},
	{"kexec_load", unix.SYS_KEXEC_LOAD, ^uintptr(0)},
	{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0)},
	{"init_module", unix.SYS_INIT_MODULE, 0},
	{"finit_module", unix.SYS_FINIT_MODULE, ^uintptr(0)},
	{"delete_module", unix.SYS_DELETE_MODULE, 0},
	{"userfaultfd", unix.SYS_USERFAULTFD, 0},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, 0},
	{"io_uring_enter", unix.SYS_IO_URING_ENTER, ^uintptr(0)},
	{"io_uring_register", unix.SYS_IO_URING_REGISTER, ^uintptr(0)},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0)},
	{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, ^uintptr(0)},
	{"quotactl", unix.SYS_QUOTACTL, 0},
	{"swapon", unix.SYS_SWAPON, 0},
	{"swapoff", unix.SYS_SWAPOFF, 0},
	{"reboot", unix.SYS_REBOOT, 0},
	{"settimeofday", unix.SYS_SETTIMEOFDAY, 0},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, 0},
	{"acct", unix.SYS_ACCT, ^uintptr(0)},
	{"sethostname", unix.SYS_SETHOSTNAME, 0},
}

// probeSyscalls prints one line for each call: its name and how it ended.
func probeSyscalls() {
	for _, call := range deniedCalls {
		_, _, errno := unix.Syscall6(call.nr, call.arg, 0, 0, 0, 0, 0)
		fmt.Printf("%s %s\n", call.name, unix.ErrnoName(errno))
	}
	for _, ns := range []struct {
		name string
		flag uintptr
	}{{"user", unix.CLONE_NEWUSER}, {"mount", unix.CLONE_NEWNS}, {"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}} {
		child := exec.Command("/bin/true")
		child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: ns.flag}
		var errno syscall.Errno
		if err := child.Run(); err != nil && !errors.As(err, &errno) {
			errno = unix.EIO
		}
		fmt.Printf("clone-%s %s\n", ns.name, unix.ErrnoName(errno))
	}
	for _, s := range []struct {
		name         string
		family, kind int
	}{
		{"packet", unix.AF_PACKET, unix.SOCK_RAW},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM},
		{"alg", unix.AF_ALG, unix.SOCK_SEQPACKET},
	} {
		end := "refused"
		if fd, err := unix.Socket(s.family, s.kind|unix.SOCK_CLOEXEC, 0); err == nil {
			unix.Close(fd)
			end = "opened"
		}
		fmt.Printf("socket-%s %s\n", s.name, end)
	}
}

func testDeniedSyscalls(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.installProbe()
	ends := map[string]string{}
	for line := range strings.Lines(b.probe("syscalls")) {
		name, end, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		ends[name] = end
	}
	want := func(name string, among ...string) {
		t.Helper()
		end, said := ends[name]
		for _, w := range among {
			if said && end == w {
				return
			}
		}
		t.Errorf("%s ended with %q (asked: %v), want one of %v", name, end, said, among)
	}
	for _, call := range deniedCalls {
		if call.name == "clone3" {
			// Not EPERM: C libraries fall back to clone only on this one.
			want(call.name, "ENOSYS")
			continue
		}
		want(call.name, "EPERM", "ENOSYS")
	}
	for _, ns := range []string{"user", "mount", "net", "pid"} {
		want("clone-"+ns, "EPERM")
	}
	for _, family := range []string{"packet", "vsock", "alg"} {
		want("socket-"+family, "refused")
	}
}
