package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// others are attempts on other processes, above all on process 1, the hand.
var others = []try{
	plain("trace process 1", false, func() error { return unix.PtraceSeize(1) }),
	plain("trace a child", true, func() error { return sleeping(unix.PtraceSeize) }),
	plain("ask to be traced", true, func() error { return call(unix.SYS_PTRACE, unix.PTRACE_TRACEME) }),
	plain("read another's memory", true, func() error {
		return sleeping(func(pid int) error {
			buffer := make([]byte, 1)
			_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buffer[0], Len: 1}}, []unix.RemoteIovec{{Base: 1, Len: 1}}, 0)
			return allowed(err)
		})
	}),
	plain("write another's memory", true, func() error {
		return sleeping(func(pid int) error {
			buffer := make([]byte, 1)
			_, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &buffer[0], Len: 1}}, []unix.RemoteIovec{{Base: 1, Len: 1}}, 0)
			return allowed(err)
		})
	}),
	plain("read the memory of process 1", false, func() error {
		f, err := os.Open("/proc/1/mem")
		if err != nil {
			return err
		}
		_, err = f.ReadAt(make([]byte, 1), 0x400000)
		return err
	}),
	plain("write the memory of process 1", false, func() error {
		f, err := os.OpenFile("/proc/1/mem", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, 0x400000); err != nil {
			return err
		}
		_, err = f.WriteAt(b, 0x400000)
		return err
	}),
	plain("take a descriptor of process 1", false, func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}),
	plain("take a descriptor of a child", true, func() error {
		return sleeping(func(pid int) error {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return err
			}
			_, err = unix.PidfdGetfd(fd, 0, 0)
			return err
		})
	}),
	plain("speak for process 1", false, func() error {
		var failed error
		for n := range 16 {
			f, err := os.OpenFile(fmt.Sprintf("/proc/1/fd/%d", n), os.O_WRONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				_, err = f.Write([]byte{0, 0, 0, 2, '{', '}'}) // a message to the worker
			}
			if err == nil {
				return nil
			}
			failed = err
		}
		return failed
	}),
	plain("kill process 1", false, func() error {
		// The kernel looks at half of a register.
		const above = 1 << 32
		var failed error
		for signal := uintptr(1); signal <= 64; signal++ {
			failed = errors.Join(failed, call(unix.SYS_KILL, 1, signal), call(unix.SYS_KILL, 1|above, signal),
				call(unix.SYS_TKILL, 1, signal), call(unix.SYS_TGKILL, 1, 1, signal), call(unix.SYS_TGKILL, 1|above, 1, signal))
		}
		info := [32]int32{int32(unix.SIGKILL), 0, -1 /* SI_QUEUE */}
		failed = errors.Join(failed, call(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(unix.SIGKILL), uintptr(unsafe.Pointer(&info))))
		if fd, err := unix.PidfdOpen(1, 0); err == nil {
			failed = errors.Join(failed, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
		}
		time.Sleep(50 * time.Millisecond) // had it died, so had we
		if failed == nil {
			failed = errNothing
		}
		return failed
	}),
	plain("kill process 1 by its directory", false, func() error {
		dir, err := unix.Open("/proc/1", unix.O_RDONLY|unix.O_DIRECTORY, 0) // which passes for its descriptor
		if err == nil {
			err = unix.PidfdSendSignal(dir, unix.SIGKILL, nil, 0)
		}
		time.Sleep(50 * time.Millisecond) // likewise
		return errors.Join(err, errNothing)
	}),
	plain("kill process 1 as the owner of a pipe", false, func() error {
		var ends [2]int
		err := unix.Pipe2(ends[:], unix.O_NONBLOCK)
		for _, set := range [][2]int{{unix.F_SETOWN, 1}, {unix.F_SETSIG, int(unix.SIGKILL)}, {unix.F_SETFL, unix.O_ASYNC | unix.O_NONBLOCK}} {
			if err == nil {
				_, err = unix.FcntlInt(uintptr(ends[0]), set[0], set[1])
			}
		}
		if err == nil {
			_, err = unix.Write(ends[1], []byte("x"))
		}
		time.Sleep(50 * time.Millisecond) // likewise
		return errors.Join(err, errNothing)
	}),
	plain("be spared when memory is short", false, func() error {
		return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	}),
	plain("change the limits of process 1", false, func() error {
		limit := unix.Rlimit{Cur: 65536, Max: 65536}
		if err := unix.Prlimit(1, unix.RLIMIT_NOFILE, &limit, nil); err == nil {
			return nil
		}
		return call(unix.SYS_PRLIMIT64, 1|1<<32, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0)
	}),
	plain("compare processes", true, func() error {
		pid := uintptr(os.Getpid())
		return call(unix.SYS_KCMP, pid, pid, 0 /* KCMP_FILE */, 0, 0)
	}),
	plain("go through the root of process 1", false, func() error {
		own, err := os.Stat("/")
		if err != nil {
			return err
		}
		other, err := os.Stat("/proc/1/root/")
		if err == nil && os.SameFile(own, other) {
			err = errNothing
		}
		return err
	}),
	{"kill a process of the host", false, func(args []string) error {
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		var failed error
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			failed = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		// Whether anything came of it is for the host to see.
		return errors.Join(unix.Kill(pid, unix.SIGKILL), unix.Kill(-pid, unix.SIGKILL), failed)
	}},
}

// allowed turns the error of a call that is allowed but finds nothing at the
// address into none.
func allowed(err error) error {
	if errors.Is(err, unix.EFAULT) {
		return nil
	}
	return err
}

// sleeping does something to a child.
func sleeping(do func(pid int) error) error {
	cmd := exec.Command("sleep", "10")
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	return do(cmd.Process.Pid)
}
