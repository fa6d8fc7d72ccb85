// Package filter is the system call filter of sandboxes: which calls no process
// in one may make, whatever engine made it. It may call no package of ours.
package filter

import (
	"fmt"
	"runtime"
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
	"reboot", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "acct", "syslog", "iopl", "ioperm", "modify_ldt", "vhangup", "nfsservctl", "personality",
}

// families are the kinds of socket that reach past the network namespace or
// into corners of the kernel.
var families = []uint64{unix.AF_ALG, unix.AF_VSOCK, unix.AF_PACKET, unix.AF_KEY, unix.AF_RDS, unix.AF_TIPC, unix.AF_CAN, unix.AF_BLUETOOTH, unix.AF_XDP, unix.AF_NFC, unix.AF_KCM, unix.AF_QIPCRTR, unix.AF_SMC}

// Load puts all threads of this process, and what it will start, under the
// filter, without new privileges and for good.
func Load() error {
	if err := filterTables(); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	sockets := make([]seccomp.NameWithConditions, 0, len(families))
	for _, family := range families {
		sockets = append(sockets, seccomp.NameWithConditions{
			Name: "socket", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: family}},
		})
	}
	// The first process is the hand. The host's kernel would not let it be killed
	// from within, but be limited; that of a guest lets it be both.
	hurt := []seccomp.NameWithConditions{}
	for call, argument := range map[string]uint32{"kill": 0, "tkill": 0, "tgkill": 0, "prlimit64": 0} {
		hurt = append(hurt, seccomp.NameWithConditions{
			Name: call, Conditions: seccomp.ArgumentConditions{{Argument: argument, Operation: seccomp.Equal, Value: 1}},
		})
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
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), Names: denied},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), NamesWithCondtions: newNamespace},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), NamesWithCondtions: hurt},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EAFNOSUPPORT), NamesWithCondtions: sockets},
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
