package security

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are attempts by system calls. A nil error is an escape.
var calls = []struct {
	name string
	host bool // root on the host may do it, and nothing comes of it there
	try  func() error
}{
	// Walls.
	{"mount a file system", true, func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") }},
	{"mount a bind", true, func() error { return unix.Mount("/", "/mnt", "", unix.MS_BIND, "") }},
	{"mount proc anew", true, func() error { return unix.Mount("proc", "/mnt", "proc", 0, "") }},
	{"mount control groups", false, func() error { return unix.Mount("none", "/mnt", "cgroup", 0, "pids") }},
	{"mount control groups 2", false, func() error { return unix.Mount("none", "/mnt", "cgroup2", 0, "") }},
	{"mount the kernel's debugging", false, func() error { return unix.Mount("none", "/mnt", "debugfs", 0, "") }},
	{"mount an overlay", false, func() error {
		return unix.Mount("overlay", "/mnt", "overlay", 0, "lowerdir=/etc,upperdir=/tmp,workdir=/tmp")
	}},
	{"make mounts shared", true, func() error { return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "") }},
	{"unmount", true, func() error {
		if os.Getpid() > 2 { // only where proc is our own to lose
			return unix.Unmount("/proc", unix.MNT_DETACH)
		}
		return errors.Join(unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""), unix.Unmount("/mnt", 0))
	}},
	{"pivot the root", false, func() error { return unix.PivotRoot(".", ".") }},
	{"chroot", true, func() error { return unix.Chroot("/tmp") }},
	{"open a file system", true, func() error { return call(unix.SYS_FSOPEN, text("tmpfs"), 0) }},
	{"clone a tree of mounts", true, func() error { return call(unix.SYS_OPEN_TREE, at(unix.AT_FDCWD), text("/tmp"), unix.OPEN_TREE_CLONE) }},
	{"move a mount", false, func() error {
		return call(unix.SYS_MOVE_MOUNT, at(unix.AT_FDCWD), text("/proc"), at(unix.AT_FDCWD), text("/mnt"), 0)
	}},
	{"change a mount", false, func() error {
		attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NOSUID}
		return call(unix.SYS_MOUNT_SETATTR, at(unix.AT_FDCWD), text("/workspace"), 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}},
	{"new user namespace", true, func() error { return unshared(unix.CLONE_NEWUSER) }},
	{"new mount namespace", true, func() error { return unshared(unix.CLONE_NEWNS) }},
	{"new network namespace", true, func() error { return unshared(unix.CLONE_NEWNET) }},
	{"new process namespace", true, func() error { return unshared(unix.CLONE_NEWPID) }},
	{"unshare", true, func() error { return unix.Unshare(unix.CLONE_NEWUTS) }},
	{"enter the namespaces of process 1", false, func() error {
		fd, err := unix.Open("/proc/1/ns/uts", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, 0)
	}},
	// Others.
	{"trace process 1", false, func() error { return unix.PtraceSeize(1) }},
	{"trace a child", true, func() error {
		return sleeping(func(pid int) error { return unix.PtraceSeize(pid) })
	}},
	{"read another's memory", true, func() error {
		return sleeping(func(pid int) error {
			buffer := make([]byte, 1)
			local := unix.Iovec{Base: &buffer[0], Len: 1}
			remote := unix.RemoteIovec{Base: 0x400000, Len: 1}
			_, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
			if errors.Is(err, unix.EFAULT) {
				return nil // it may, there is just nothing at that address
			}
			return err
		})
	}},
	{"read the memory of process 1", false, func() error {
		f, err := os.Open("/proc/1/mem")
		if err != nil {
			return err
		}
		_, err = f.ReadAt(make([]byte, 1), 0x400000)
		return err
	}},
	{"write the memory of process 1", false, func() error {
		f, err := os.OpenFile("/proc/1/mem", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}},
	{"take a descriptor of process 1", false, func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"kill process 1", false, func() error {
		err := unix.Kill(1, unix.SIGKILL)
		time.Sleep(100 * time.Millisecond)
		if err == nil { // process 1 does not hear of it: we would not be here
			err = errors.New("it lives")
		}
		return err
	}},
	{"compare processes", true, func() error {
		return call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(os.Getpid()), 0 /* KCMP_FILE */, 0, 0)
	}},
	{"go through the root of process 1", false, func() error {
		own, err := os.Stat("/")
		if err != nil {
			return err
		}
		other, err := os.Stat("/proc/1/root/")
		if err != nil {
			return err
		}
		if os.SameFile(own, other) {
			return errors.New("it is our own")
		}
		return nil
	}},
	// Files by other ways.
	{"name a file by its handle", true, func() error {
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/tmp", 0)
		return err
	}},
	{"open a file by its handle", false, func() error {
		fd, err := unix.Open("/", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		_, err = unix.OpenByHandleAt(fd, unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), unix.O_RDONLY) // inode 2 is the root of most disks
		return err
	}},
	{"make a disk", false, func() error { return device("disk", unix.S_IFBLK, 254, 0) }},
	{"make the loop device", false, func() error { return device("loop", unix.S_IFBLK, 7, 0) }},
	{"make the memory device", false, func() error { return device("memory", unix.S_IFCHR, 1, 1) }},
	{"make the kernel's log", false, func() error { return device("log", unix.S_IFCHR, 1, 11) }},
	{"make the fuse device", false, func() error { return device("fuse", unix.S_IFCHR, 10, 229) }},
	{"open the memory device", false, func() error { return opened("/dev/mem") }},
	{"open the kernel's log", false, func() error { return opened("/dev/kmsg") }},
	{"open the virtual machines", false, func() error { return opened("/dev/kvm") }},
	{"open the network tunnel", false, func() error { return opened("/dev/net/tun") }},
	{"open the fuse device", false, func() error { return opened("/dev/fuse") }},
	// The kernel.
	{"load a module", false, func() error { return call(unix.SYS_INIT_MODULE, text("\x7fELF"), 4, text("")) }},
	{"load a module from a file", false, func() error { return call(unix.SYS_FINIT_MODULE, 0, text(""), 0) }},
	{"remove a module", false, func() error { return call(unix.SYS_DELETE_MODULE, text("nothing"), 0) }},
	{"load another kernel", false, func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) }},
	{"make a bpf map", true, func() error {
		attr := [16]uint32{2 /* array */, 4, 4, 1}
		return call(unix.SYS_BPF, 0 /* BPF_MAP_CREATE */, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}},
	{"count events of the processor", false, func() error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		return err
	}},
	{"handle page faults", false, func() error { return call(unix.SYS_USERFAULTFD, 0) }},
	{"set up an io_uring", false, func() error {
		params := [30]uint32{}
		return call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)))
	}},
	{"add a key", false, func() error {
		_, err := unix.AddKey("user", "security", []byte("x"), unix.KEY_SPEC_SESSION_KEYRING)
		return err
	}},
	{"read the keyring", false, func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true); return err }},
	{"ask for a key", false, func() error { return call(unix.SYS_REQUEST_KEY, text("user"), text("security"), 0, 0) }},
	{"read the kernel's messages", true, func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64)); return err }},
	{"watch file systems", false, func() error { _, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT, 0); return err }},
	{"gain capabilities", false, func() error {
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		all := [2]unix.CapUserData{{Effective: 1<<unix.CAP_SYS_ADMIN | 1, Permitted: 1<<unix.CAP_SYS_ADMIN | 1}}
		return unix.Capset(&head, &all[0])
	}},
	{"calls by the x32 table", false, func() error { return call(0x40000000|521, unix.PTRACE_TRACEME) }},
	// The machine.
	{"restart", false, func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }},
	{"set the time", false, func() error { return unix.Settimeofday(&unix.Timeval{Sec: time.Now().Unix()}) }},
	{"set the clock", false, func() error {
		return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: time.Now().Unix()})
	}},
	{"steer the clock", false, func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_FREQUENCY}); return err }},
	{"rename the host", true, func() error { return unix.Sethostname([]byte("escaped")) }},
	{"swap", false, func() error { return call(unix.SYS_SWAPON, text("/tmp/swap"), 0) }},
	{"account for processes", false, func() error { return unix.Acct("/tmp/acct") }},
	{"set quotas", false, func() error { return call(unix.SYS_QUOTACTL, 0x800002<<8, text("/dev/vda"), 0, 0) }},
	{"reach the ports of the machine", false, func() error { return call(unix.SYS_IOPL, 3) }},
	{"type into a terminal", false, func() error {
		fd, err := unix.Open("/dev/tty", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(fd, unix.TIOCSTI, 'x')
	}},
	// Sockets past the walls.
	{"packet socket", true, func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
	{"raw socket", true, func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
	{"socket to the hypervisor", false, func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{"socket to the kernel's ciphers", false, func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }},
	{"key socket", false, func() error { return socket(unix.AF_KEY, unix.SOCK_RAW, 2) }},
	{"add a network link", false, func() error {
		if out, err := exec.Command("ip", "link", "add", "escape", "type", "dummy").CombinedOutput(); err != nil {
			return addLink(fmt.Errorf("%w: %s", err, out))
		}
		return nil
	}},
	{"dial the metadata service", false, func() error { return dial("tcp", "169.254.169.254:80") }},
	{"dial a link-local neighbour", false, func() error { return dial("tcp", "169.254.1.1:80") }},
	{"dial a private network", false, func() error { return dial("tcp", "10.0.0.1:80") }},
	{"dial the internet", false, func() error { return dial("tcp", "1.1.1.1:443") }},
	{"dial the internet by IPv6", false, func() error { return dial("tcp", "[2606:4700:4700::1111]:443") }},
	{"ask a name server", false, func() error { return ask("1.1.1.1:53") }},
	{"ask the host's name server", false, func() error { return ask("127.0.0.53:53") }},
}

// call makes a raw system call.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// kept holds on to what addresses were made of.
var kept []*byte

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

func at(fd int) uintptr { return uintptr(fd) }

// unshared starts a process in a new namespace.
func unshared(flags uintptr) error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	return cmd.Run()
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

// device makes a device and opens it.
func device(name string, kind uint32, major, minor uint32) error {
	path := "/tmp/" + name
	if err := unix.Mknod(path, kind|0o666, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return opened(path)
}

func opened(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// ask sends a query for the root and waits for an answer.
func ask(server string) error {
	c, err := net.DialTimeout("udp", server, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	if _, err := c.Write(query); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 512))
	return err
}

// addLink adds a link by hand where there is no ip program; before says why.
func addLink(before error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return errors.Join(before, err)
	}
	defer unix.Close(fd)
	// RTM_NEWLINK of kind "dummy".
	kind := []byte{10, 0, 1, 0, 'd', 'u', 'm', 'm', 'y', 0, 0, 0}
	info := append([]byte{byte(len(kind) + 4), 0, 18, 0}, kind...)
	body := append(make([]byte, 16), info...)
	message := append([]byte{byte(16 + len(body)), 0, 0, 0, 16, 0, 0x05, 0x06, 1, 0, 0, 0, 0, 0, 0, 0}, body...)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	reply := make([]byte, 64)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	if n >= 20 && *(*int32)(unsafe.Pointer(&reply[16])) == 0 {
		return nil
	}
	return errors.New("refused")
}
