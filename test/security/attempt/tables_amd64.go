package main

import (
	"errors"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tables are attempts by what only this kind of processor has: other tables of
// system calls, and segments.
var tables = []try{
	plain("calls by the x32 table", false, func() error { return call(0x40000000|521, unix.PTRACE_TRACEME) }),
	plain("calls by the 32-bit table", false, func() error {
		path, err := program("foreign", foreign)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		err = exec.Command(path).Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 42 {
			return nil
		}
		return errors.Join(err, errNothing)
	}),
	plain("make a segment", true, func() error {
		// struct user_desc: entry 0, base 0, limit 1, 32-bit.
		segment := [4]uint32{0, 0, 1, 1}
		if n, _, errno := unix.Syscall(unix.SYS_MODIFY_LDT, 1, uintptr(unsafe.Pointer(&segment)), unsafe.Sizeof(segment)); int32(n) < 0 || errno != 0 {
			return errors.Join(errno, unix.Errno(-int32(n)))
		}
		return nil
	}),
	plain("reach the ports of the machine", false, func() error { return call(unix.SYS_IOPL, 3) }),
	plain("reach a port of the machine", false, func() error { return call(unix.SYS_IOPERM, 0x80, 1, 1) }),
	plain("be another kind of process", true, func() error { return call(unix.SYS_PERSONALITY, 0x0400000 /* READ_IMPLIES_EXEC */) }),
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
