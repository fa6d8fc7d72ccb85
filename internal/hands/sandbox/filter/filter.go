// Package filter is the system call filter of sandboxes: which calls no process
// in one may make, whatever engine made it. It may call no package of ours.
package filter

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// denied are the system calls by which a process could touch its walls, look
// into others, or reach parts of the kernel that no tool needs.
var denied = []uint32{
	// Walls.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE_ATTR, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	// Others' memory and files.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	// The kernel itself.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_LOOKUP_DCOOKIE,
	// The machine.
	unix.SYS_REBOOT, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_VHANGUP, unix.SYS_NFSSERVCTL, unix.SYS_PERSONALITY,
}

// families are the kinds of socket that programs use. All others reach past the
// network namespace or into corners of the kernel, and to be asked for one is enough
// for a host to load the module that has it.
var families = []uint32{unix.AF_UNSPEC, unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// protocols are such corners behind families that programs use, whichever that is,
// for none of the others has one of these numbers.
var protocols = []uint32{
	unix.IPPROTO_DCCP, unix.IPPROTO_L2TP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE,
	256,                   // IPPROTO_SMC, which is AF_SMC by another name
	unix.NETLINK_USERSOCK, // by which processes write to each other, in memory that is nobody's
}

// namespaces are the flags of clone that ask for a namespace.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// tables are the system call tables programs of this machine normally use.
var tables = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// x32 marks calls by the x32 table of amd64, which otherwise passes for the
// usual one.
const x32 = 0x40000000

// What a filter looks at: struct seccomp_data, in <linux/seccomp.h>; and what it
// can answer.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16 // of eight bytes each

	allowed = 0x7fff0000
	failing = 0x00050000 // with an error number
)

func refuse(errno unix.Errno) bpf.RetConstant { return bpf.RetConstant{Val: failing | uint32(errno)} }

var allow = bpf.RetConstant{Val: allowed}

// Load puts all threads of this process, and what it will start, under the
// filter, without new privileges and for good. It is one program, and a short way
// through it, because it is run for each call; a guest's kernel runs it for every
// call there is before it takes it.
func Load() error {
	if err := load(program()); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

func program() []bpf.Instruction {
	calls := slices.Sorted(slices.Values(append(slices.Clip(denied), deniedHere...)))
	return slices.Concat(usualTable(), sockets(), owners(), byArgument(), search(calls))
}

// usualTable refuses calls by any table but the usual one: by another, the same
// call has another number, which the filter does not know. It leaves the call's
// number loaded, as does what follows it.
func usualTable() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tables[runtime.GOARCH], SkipTrue: 2},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32, SkipFalse: 1},
		refuse(unix.ENOSYS),
	}
}

// argument loads one of a call's arguments, of four bytes: what a program puts into the
// other four of the register, the kernel does not see, and nor must we.
func argument(n uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offsetArguments + 8*n, Size: 4} }

// sockets refuses sockets of other families, and of some protocols.
func sockets() []bpf.Instruction {
	body := []bpf.Instruction{argument(0)}
	for i, family := range families {
		body = append(body, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipTrue: uint8(len(families) - i)})
	}
	body = append(body, refuse(unix.EAFNOSUPPORT), argument(2))
	for i, protocol := range protocols {
		body = append(body, bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocol, SkipTrue: uint8(len(protocols) - i + 2)})
	}
	body = append(body,
		argument(1), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf}, // without what is said beside the kind
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SOCK_PACKET, SkipFalse: 1}, // AF_PACKET by another name
		refuse(unix.EPROTONOSUPPORT), allow)
	return append([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_SOCKET, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_SOCKETPAIR, SkipFalse: uint8(len(body))},
	}, body...)
}

// owners refuses to have the owner of a file, which may be the hand, sent a signal
// that nobody can catch.
func owners() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_FCNTL, SkipFalse: 7},
		argument(1),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.F_SETSIG, SkipFalse: 3},
		argument(2),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(unix.SIGKILL), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(unix.SIGSTOP), SkipTrue: 1},
		allow,
		refuse(unix.EPERM),
	}
}

// byArgument refuses calls with some first arguments.
func byArgument() []bpf.Instruction {
	equal := func(values ...uint32) (tests []bpf.JumpIf) {
		for _, v := range values {
			tests = append(tests, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v})
		}
		return tests
	}
	// The first process is the hand. The host's kernel would not let it be killed
	// from within, but be limited; that of a guest lets it be both.
	hand, always := equal(1), []bpf.JumpIf{{Cond: bpf.JumpGreaterOrEqual, Val: 0}}
	var program []bpf.Instruction
	for _, rule := range []struct {
		call  uint32
		tests []bpf.JumpIf
		errno unix.Errno
	}{
		{unix.SYS_CLONE, []bpf.JumpIf{{Cond: bpf.JumpBitsSet, Val: namespaces}}, unix.EPERM},
		// Its flags are in memory, where a filter cannot look; without it, libraries
		// use clone.
		{unix.SYS_CLONE3, always, unix.ENOSYS},
		// All on a host share one number of requests, which anybody may take whole.
		// Programs do without where a kernel does not know it.
		{unix.SYS_IO_SETUP, always, unix.ENOSYS},
		{unix.SYS_KILL, hand, unix.EPERM},
		{unix.SYS_TKILL, hand, unix.EPERM},
		{unix.SYS_TGKILL, hand, unix.EPERM},
		{unix.SYS_RT_SIGQUEUEINFO, hand, unix.EPERM},
		{unix.SYS_RT_TGSIGQUEUEINFO, hand, unix.EPERM},
		{unix.SYS_PIDFD_OPEN, hand, unix.EPERM},
		{unix.SYS_PRLIMIT64, hand, unix.EPERM},
		// It takes the hand's directory in /proc for its descriptor. Programs use kill
		// where a kernel does not know it.
		{unix.SYS_PIDFD_SEND_SIGNAL, always, unix.ENOSYS},
	} {
		n := len(rule.tests)
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: rule.call, SkipFalse: uint8(n + 3)}, // to the next rule
			argument(0))
		for i, test := range rule.tests {
			test.SkipTrue = uint8(n - i) // to the refusal
			program = append(program, test)
		}
		program = append(program, allow, refuse(rule.errno))
	}
	return program
}

// search refuses calls, which are sorted, and allows all others.
func search(calls []uint32) []bpf.Instruction {
	const few = 4
	if len(calls) > few {
		half := len(calls) / 2
		below, above := search(calls[:half]), search(calls[half:])
		turn := bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: calls[half], SkipTrue: uint8(len(below))}
		return slices.Concat([]bpf.Instruction{turn}, below, above)
	}
	var program []bpf.Instruction
	for i, call := range calls {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: call, SkipTrue: uint8(len(calls) - i)})
	}
	return append(program, allow, refuse(unix.EPERM))
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
