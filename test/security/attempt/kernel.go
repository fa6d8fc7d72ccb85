package main

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel are attempts to reach its rarer corners, or to change it.
var kernel = []try{
	plain("load a module", false, func() error { return call(unix.SYS_INIT_MODULE, text("\x7fELF"), 4, text("")) }),
	plain("load a module from a file", false, func() error { return call(unix.SYS_FINIT_MODULE, 0, text(""), 0) }),
	plain("remove a module", false, func() error { return call(unix.SYS_DELETE_MODULE, text("nothing"), 0) }),
	plain("load another kernel", false, func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) }),
	plain("load another kernel from a file", false, func() error { return call(unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0, 0, 0) }),
	plain("make a bpf map", true, func() error {
		attr := [16]uint32{2 /* array */, 4, 4, 1}
		return call(unix.SYS_BPF, 0 /* BPF_MAP_CREATE */, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}),
	plain("count events of the processor", true, func() error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		return err
	}),
	plain("handle page faults", true, func() error { return call(unix.SYS_USERFAULTFD, 0) }),
	plain("set up an io_uring", true, func() error {
		params := [30]uint32{}
		return call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)))
	}),
	plain("take of the requests for files that all on a host share", true, func() error {
		var context uint64 // aio_context_t
		return call(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&context)))
	}),
	plain("add a key", true, func() error {
		_, err := unix.AddKey("user", "security", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	}),
	plain("read the keyring", true, func() error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
		return err
	}),
	plain("ask for a key", true, func() error {
		if _, err := unix.AddKey("user", "security", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING); err != nil {
			return errors.Join(err, call(unix.SYS_REQUEST_KEY, text("user"), text("security"), 0, 0))
		}
		return call(unix.SYS_REQUEST_KEY, text("user"), text("security"), 0, 0)
	}),
	plain("read the kernel's messages", true, func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64)); return err }),
	plain("watch file systems", true, func() error { _, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT, 0); return err }),
	plain("gain capabilities", true, func() error {
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		all := [2]unix.CapUserData{{Effective: 1<<unix.CAP_SYS_ADMIN | 1, Permitted: 1<<unix.CAP_SYS_ADMIN | 1}}
		return unix.Capset(&head, &all[0])
	}),
	plain("gain ambient capabilities", false, func() error {
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_ADMIN, 0, 0)
	}),
	plain("allow new privileges again", false, func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) }),
	plain("take the filter off", false, func() error {
		return errors.Join(unix.Prctl(unix.PR_SET_SECCOMP, 0, 0, 0, 0))
	}),
	plain("have a process of its own judge its calls", true, judgeOwnCalls),
}

// judgeOwnCalls puts mounting under a filter that asks another thread, which
// lets it pass: a filter may ask only where none before it has refused.
func judgeOwnCalls() error {
	const newListener, continues = 1 << 3, 1
	type judged struct {
		fd  uintptr
		err error
	}
	listener, ended := make(chan judged, 1), make(chan error, 1)
	go onThread(func() {
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MOUNT, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fc00000 /* SECCOMP_RET_USER_NOTIF */},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000 /* SECCOMP_RET_ALLOW */},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			listener <- judged{err: err}
			return
		}
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, newListener, uintptr(unsafe.Pointer(&program)))
		if errno != 0 {
			listener <- judged{err: errno}
			return
		}
		listener <- judged{fd: fd}
		ended <- unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "")
	})
	l := <-listener
	if l.err != nil {
		return l.err
	}
	poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	for asked := 0; asked <= 0; {
		select {
		case err := <-ended: // nobody was asked
			return err
		default:
			asked, _ = unix.Poll(poll, 10) // an interruption is no question
		}
	}
	var notice [80]byte // struct seccomp_notif; its id comes first
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, l.fd, 0xc0502100 /* SECCOMP_IOCTL_NOTIF_RECV */, uintptr(unsafe.Pointer(&notice))); errno != 0 {
		return errno
	}
	var answer struct {
		id         uint64
		value      int64
		err, flags int32
	}
	answer.id, answer.flags = *(*uint64)(unsafe.Pointer(&notice)), continues
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, l.fd, 0xc0182101 /* SECCOMP_IOCTL_NOTIF_SEND */, uintptr(unsafe.Pointer(&answer))); errno != 0 {
		return errno
	}
	return <-ended
}
