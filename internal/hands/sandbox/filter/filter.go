// Package filter is the system call filter of sandboxes: which calls no process
// in one may make, whatever engine made it. It may call no package of ours.
package filter

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

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
	"reboot", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "acct", "syslog", "vhangup", "nfsservctl", "personality",
}

// deniedHere are those that only some kinds of processor have.
var deniedHere = map[string][]string{"amd64": {"iopl", "ioperm", "modify_ldt"}}

// families are the kinds of socket that reach past the network namespace or
// into corners of the kernel.
var families = []uint32{unix.AF_ALG, unix.AF_VSOCK, unix.AF_PACKET, unix.AF_KEY, unix.AF_RDS, unix.AF_TIPC, unix.AF_CAN, unix.AF_BLUETOOTH, unix.AF_XDP, unix.AF_NFC, unix.AF_KCM, unix.AF_QIPCRTR, unix.AF_SMC}

// Load puts all threads of this process, and what it will start, under the
// filter, without new privileges and for good.
func Load() error {
	if err := filterTables(); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	if err := filterArguments(); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	newNamespace := make([]seccomp.NameWithConditions, 0, 8)
	for _, flag := range []uint64{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
		newNamespace = append(newNamespace, seccomp.NameWithConditions{
			Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: flag}},
		})
	}
	calls := seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), Names: slices.Concat(denied, deniedHere[runtime.GOARCH])},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), NamesWithCondtions: newNamespace},
				// Its flags are in memory, where a filter cannot look; without
				// it, libraries use clone.
				{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			},
		},
	}
	if err := seccomp.LoadFilter(calls); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// tables are the system call tables programs of this machine normally use.
var tables = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// x32 marks calls by the x32 table of amd64, which otherwise passes for the
// usual one.
const x32 = 0x40000000

// What a filter looks at: struct seccomp_data, in <linux/seccomp.h>.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16 // of eight bytes each
)

func refuse(errno unix.Errno) bpf.RetConstant {
	return bpf.RetConstant{Val: uint32(seccomp.ActionErrno) | uint32(errno)}
}

var allow = bpf.RetConstant{Val: uint32(seccomp.ActionAllow)}

// filterTables refuses calls by any table but the usual one: by another, the
// same call has another number, which the filter does not know.
func filterTables() error {
	return load([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tables[runtime.GOARCH], SkipTrue: 2},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32, SkipFalse: 1},
		refuse(unix.ENOSYS),
		allow,
	})
}

// filterArguments refuses calls with some first arguments. Those are of four
// bytes: what a program puts into the other four of the register, the kernel
// does not see, and nor must we.
func filterArguments() error {
	// The first process is the hand. The host's kernel would not let it be killed
	// from within, but be limited; that of a guest lets it be both.
	hand := []uint32{1}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetNumber, Size: 4}}
	for _, rule := range []struct {
		call      uint32
		arguments []uint32
		errno     unix.Errno
	}{
		{unix.SYS_SOCKET, families, unix.EAFNOSUPPORT},
		{unix.SYS_SOCKETPAIR, families, unix.EAFNOSUPPORT},
		{unix.SYS_KILL, hand, unix.EPERM},
		{unix.SYS_TKILL, hand, unix.EPERM},
		{unix.SYS_TGKILL, hand, unix.EPERM},
		{unix.SYS_RT_SIGQUEUEINFO, hand, unix.EPERM},
		{unix.SYS_RT_TGSIGQUEUEINFO, hand, unix.EPERM},
		{unix.SYS_PIDFD_OPEN, hand, unix.EPERM},
		{unix.SYS_PRLIMIT64, hand, unix.EPERM},
	} {
		n := len(rule.arguments)
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: rule.call, SkipFalse: uint8(n + 3)}, // to the next rule
			bpf.LoadAbsolute{Off: offsetArguments, Size: 4})
		for i, argument := range rule.arguments {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: argument, SkipTrue: uint8(n - i)}) // to the refusal
		}
		program = append(program, allow, refuse(rule.errno))
	}
	return load(append(program, allow))
}

// load puts all threads of this process under a filter.
func load(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filters := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
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
