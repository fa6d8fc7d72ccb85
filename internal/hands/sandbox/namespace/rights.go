package namespace

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"hearth/internal/hands/sandbox"
)

// giveUp takes from this process, on all its threads, and from all it will
// start, what a sandbox must not do.
func giveUp() error {
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	// What runs here shares our user; it must not look into us.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close /proc/1: %w", err)
	}
	if err := restrictFiles(); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	if err := filterCalls(); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// kept are the capabilities that what runs in a sandbox may have over it: those
// by which root handles files and users.
var kept = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_NET_BIND_SERVICE}

func dropCapabilities() error {
	var keep [2]uint32
	for _, c := range kept {
		keep[c/32] |= 1 << (c % 32)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep[0], Permitted: keep[0]}, {Effective: keep[1], Permitted: keep[1]}}
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// newLauncher returns what starts the shell: a thread that may never again be
// given the capabilities that are not kept, nor may what it starts. The hand
// itself starts nothing else and, without new privileges, gains none either;
// to forbid it on all its threads would cost more than all other walls.
func newLauncher() (func(*exec.Cmd) error, error) {
	type order struct {
		cmd     *exec.Cmd
		started chan error
	}
	orders := make(chan order)
	bound := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		bound <- boundCapabilities()
		for o := range orders {
			o.started <- o.cmd.Start()
		}
	}()
	launch := func(cmd *exec.Cmd) error {
		o := order{cmd, make(chan error)}
		orders <- o
		return <-o.started
	}
	return launch, <-bound
}

// boundCapabilities bounds what the calling thread may ever have.
func boundCapabilities() error {
	for c := range 64 {
		if slices.Contains(kept, c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last capability this kernel knows
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restrictFiles is a second wall behind the mounts: should something of the
// host become visible, it still cannot be opened.
func restrictFiles() error {
	return landlock.V5.BestEffort().RestrictPaths(
		landlock.RODirs("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc").IgnoreIfMissing(),
		landlock.RWDirs("/usr", "/opt", "/etc").IgnoreIfMissing(),
		landlock.RWDirs(sandbox.GuestWorkdir, "/tmp", "/var", "/run", "/home", "/root", "/mnt", "/srv", "/dev", "/proc").WithRefer().WithIoctlDev(),
	)
}

// denied are the system calls by which a process could touch its walls, look
// into others, or reach parts of the kernel that no tool needs.
var denied = []string{
	// Walls.
	"mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"unshare", "setns", "quotactl", "swapon", "swapoff",
	// Others' memory and files.
	"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "name_to_handle_at", "open_by_handle_at",
	// The kernel itself.
	"bpf", "perf_event_open", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "userfaultfd",
	"io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "request_key", "keyctl", "lookup_dcookie",
	// The machine.
	"reboot", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "acct", "syslog", "iopl", "ioperm", "vhangup", "nfsservctl", "personality",
}

// families are the kinds of socket that reach past the network namespace or
// into corners of the kernel.
var families = []uint64{unix.AF_ALG, unix.AF_VSOCK, unix.AF_PACKET, unix.AF_KEY, unix.AF_RDS, unix.AF_TIPC, unix.AF_CAN, unix.AF_BLUETOOTH, unix.AF_XDP, unix.AF_NFC, unix.AF_KCM, unix.AF_QIPCRTR, unix.AF_SMC}

func filterCalls() error {
	if err := filterTables(); err != nil {
		return err
	}
	sockets := make([]seccomp.NameWithConditions, 0, len(families))
	for _, family := range families {
		sockets = append(sockets, seccomp.NameWithConditions{
			Name: "socket", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: family}},
		})
	}
	newNamespace := make([]seccomp.NameWithConditions, 0, 8)
	for _, flag := range []uint64{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
		newNamespace = append(newNamespace, seccomp.NameWithConditions{
			Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: flag}},
		})
	}
	filter := seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), Names: denied},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), NamesWithCondtions: newNamespace},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EAFNOSUPPORT), NamesWithCondtions: sockets},
				// Its flags are in memory, where a filter cannot look; without
				// it, libraries use clone.
				{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			},
		},
	}
	return seccomp.LoadFilter(filter)
}

// tables are the system call tables programs of this machine normally use.
var tables = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// x32 marks calls by the x32 table of amd64, which otherwise passes for the
// usual one.
const x32 = 0x40000000

// filterTables refuses calls by any table but the usual one: by another, the
// same call has another number, which the filter does not know.
func filterTables() error {
	const (
		offsetNumber = 0 // struct seccomp_data, in <linux/seccomp.h>
		offsetArch   = 4
	)
	refuse := bpf.RetConstant{Val: uint32(seccomp.ActionErrno) | uint32(unix.ENOSYS)}
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tables[runtime.GOARCH], SkipTrue: 2},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32, SkipFalse: 1},
		refuse,
		bpf.RetConstant{Val: uint32(seccomp.ActionAllow)},
	})
	if err != nil {
		return err
	}
	filters := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filters[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	whole := unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&whole)))
	if errno != 0 {
		return errno
	}
	return nil
}
