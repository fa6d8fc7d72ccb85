package main

import (
	"errors"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// machine are attempts on what all on it share.
var machine = []try{
	// A magic number that is wrong is looked at only after the right to restart.
	plain("restart", true, func() error { return reached(call(unix.SYS_REBOOT, 0, 0, 0, 0), unix.EINVAL) }),
	plain("set the time", false, func() error { return unix.Settimeofday(&unix.Timeval{Sec: time.Now().Unix()}) }),
	plain("set the clock", false, func() error {
		return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: time.Now().Unix()})
	}),
	plain("steer the clock", false, func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_FREQUENCY}); return err }),
	plain("rename the host", true, func() error { return unix.Sethostname([]byte("escaped")) }),
	plain("rename the host's domain", true, func() error { return unix.Setdomainname([]byte("escaped")) }),
	plain("swap", true, func() error { return reached(call(unix.SYS_SWAPON, 0, 0), unix.EFAULT) }),
	plain("stop swapping", true, func() error { return reached(call(unix.SYS_SWAPOFF, 0), unix.EFAULT) }),
	plain("account for processes", false, func() error { return unix.Acct("/tmp/acct") }),
	plain("set quotas", true, func() error {
		return reached(call(unix.SYS_QUOTACTL, 0x800002<<8, text("/dev/null"), 0, 0), unix.ENOTBLK)
	}),
	plain("have more of the processor than others", true, func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) }),
	plain("run in real time", true, func() error {
		return call(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&[]int32{1}[0])))
	}),
	plain("lock memory without end", true, func() error {
		raw, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Mlock(raw)
	}),
	plain("raise a limit", false, func() error {
		var files unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
			return err
		}
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files.Max + 1, Max: files.Max + 1})
	}),
	plain("have core dumps", false, func() error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	}),
	plain("have most terminals there are", false, func() error {
		for range 1000 {
			fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
		}
		return nil
	}),
	plain("type into a terminal", true, func() error {
		var failed error
		for _, name := range []string{"/dev/tty", "/dev/console", "/dev/tty0", "/dev/pts/0", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"} {
			fd, err := unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK, 0)
			if err == nil {
				key := byte('x')
				err = call(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&key)))
			}
			if err == nil {
				return nil
			}
			failed = errors.Join(failed, err)
		}
		return failed
	}),
}

// reached turns the error that a call makes once it is allowed into none.
func reached(err error, once ...error) error {
	for _, e := range once {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// onThread runs fn on a thread that ends with it.
func onThread(fn func()) {
	runtime.LockOSThread() // never unlocked
	fn()
}

// program makes a program of bytes, wherever it can.
func program(name string, raw []byte) (string, error) {
	for _, dir := range []string{"/tmp", "."} {
		path := dir + "/" + name
		if err := os.WriteFile(path, raw, 0o755); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no place for a program")
}
