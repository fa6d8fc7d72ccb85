package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hoards take one of something and keep it.
var hoards = map[string]func(n int) error{
	"threads": func(int) error {
		begun := make(chan struct{})
		go onThread(func() {
			close(begun)
			select {}
		})
		<-begun
		return nil
	},
	"files":       func(int) error { _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); return err },
	"some memory": func(int) error { return touch(-1, 4<<20) },
	"memory":      func(int) error { return touch(-1, 4<<20) },
	"memfd": func(n int) error {
		fd, err := unix.MemfdCreate("hoard", 0)
		if err == nil {
			err = unix.Ftruncate(fd, 4<<20)
		}
		if err == nil {
			err = touch(fd, 4<<20)
		}
		return err
	},
	"pipes": func(n int) error {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_NONBLOCK); err != nil {
			return err
		}
		_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, 1<<20) // as far as it is allowed
		_, err := unix.Write(ends[1], make([]byte, 1<<20))
		return err
	},
	"sockets": func(n int) error {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		_, err = unix.Write(ends[0], make([]byte, 100_000))
		return err
	},
	"watchers": func(int) error { _, err := unix.InotifyInit1(0); return err },
	"watches": func(n int) error {
		fd, err := unix.InotifyInit1(0)
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, "/proc/self", unix.IN_ALL_EVENTS)
		}
		return err
	},
	// What the kernel answers to nonsense, with the nonsense in it, and nobody reads.
	"answers of the kernel": func(int) error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<20) // as far as it is allowed
		request := make([]byte, 30_000)
		*(*unix.NlMsghdr)(unsafe.Pointer(&request[0])) = unix.NlMsghdr{Len: uint32(len(request)), Type: 0x1234, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK}
		for range 300 {
			if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return nil // it is full
			}
		}
		return nil
	},
	// Both on disk: what has neither a name nor a descriptor, and what only another
	// thread than the first has open.
	"mapped files": func(int) error {
		f, err := unnamed()
		if err == nil {
			err = unix.Ftruncate(f, 8<<20)
		}
		if err == nil {
			err = touch(f, 8<<20)
		}
		return errors.Join(err, unix.Close(f), pause())
	},
	"files of threads": func(int) error {
		done := make(chan error)
		go onThread(func() {
			// A table of descriptors of its own, and none of them closed.
			err := call(unix.SYS_CLOSE_RANGE, 1<<30, 1<<30, 2 /* CLOSE_RANGE_UNSHARE */)
			if err == nil {
				var f int
				if f, err = unnamed(); err == nil {
					_, err = unix.Write(f, make([]byte, 8<<20))
				}
			}
			done <- errors.Join(err, pause())
			select {}
		})
		return <-done
	},
	"timers": func(int) error { _, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0); return err },
	"polls":  func(int) error { _, err := unix.EpollCreate1(0); return err },
	"shared memory": func(n int) error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4<<20, unix.IPC_CREAT|0o600)
		if err != nil {
			return err
		}
		raw, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return err
		}
		dirty(raw)
		return nil
	},
	"files in shared memory": func(n int) error { return os.WriteFile("/dev/shm/hoard"+strconv.Itoa(n), make([]byte, 1<<20), 0o600) },
	"ports": func(n int) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		return err
	},
	"terminals": func(int) error { _, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0); return err },
	"signals": func(int) error {
		signals.Do(func() {
			blocked := unix.Sigset_t{}
			blocked.Val[0] = 1 << (waiting - 1)
			if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, nil); err != nil {
				panic(err)
			}
		})
		info := [32]int32{waiting, 0, -1 /* SI_QUEUE */}
		pid := uintptr(os.Getpid())
		return call(unix.SYS_RT_TGSIGQUEUEINFO, pid, uintptr(unix.Gettid()), waiting, uintptr(unsafe.Pointer(&info)))
	},
	"locks": func(n int) error {
		fd, err := unix.Open("/tmp/lock"+strconv.Itoa(n), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err == nil {
			err = unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
		}
		return err
	},
}

// unnamed makes a file without a name.
func unnamed() (fd int, err error) {
	name := "hoard" + strconv.Itoa(unix.Gettid())
	fd, err = unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fd, err
	}
	return fd, unix.Unlink(name)
}

// pause is for what is measured now and then only.
func pause() error { time.Sleep(50 * time.Millisecond); return nil }

// waiting is a signal that nobody takes: one of those for real time, all of which are
// kept.
const waiting = 40

var signals sync.Once

// most bounds a hoard, for where nothing else does.
var most = map[string]int{"memory": 100, "memfd": 100, "shared memory": 100, "some memory": 12, "threads": 500, "signals": 1 << 20, "answers of the kernel": 240, "mapped files": 60, "files of threads": 60}

// hoard takes what there is, or only one, says how much that was, and holds on to it.
func hoard(what string, one bool) {
	take, ok := hoards[what]
	if !ok {
		fmt.Println("there is nothing of that name to take")
		os.Exit(2)
	}
	runtime.LockOSThread() // what is a thread's own is to stay
	if one {
		if err := take(os.Getpid()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("took it")
		return
	}
	// Should the test forget us; and now, for later there may be nothing to wait with.
	time.AfterFunc(time.Minute, func() { os.Exit(1) })
	var err error
	n := 0
	for ; n < cmp.Or(most[what], 1000) && err == nil; n++ {
		err = take(n)
	}
	fmt.Println("holds", n, err)
	enough := make(chan os.Signal, 1)
	signal.Notify(enough, unix.SIGTERM)
	<-enough
}

// touch takes memory, and means it.
func touch(fd, size int) error {
	flags := unix.MAP_SHARED
	if fd < 0 {
		flags = unix.MAP_PRIVATE | unix.MAP_ANON
	}
	raw, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return err
	}
	dirty(raw)
	return nil
}

func dirty(raw []byte) {
	for i := 0; i < len(raw); i += os.Getpagesize() {
		raw[i] = 1
	}
}
