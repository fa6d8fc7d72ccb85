package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// walls are attempts to move what a sandbox is made of: mounts, roots and
// namespaces.
var walls = []try{
	plain("mount a file system", true, func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") }),
	plain("mount a bind", true, func() error { return unix.Mount("/", "/mnt", "", unix.MS_BIND, "") }),
	plain("mount proc anew", true, func() error { return unix.Mount("proc", "/mnt", "proc", 0, "") }),
	plain("mount sysfs", true, func() error { return unix.Mount("sysfs", "/mnt", "sysfs", 0, "") }),
	plain("mount control groups", false, func() error { return unix.Mount("none", "/mnt", "cgroup", 0, "pids") }),
	plain("mount control groups 2", false, func() error { return unix.Mount("none", "/mnt", "cgroup2", 0, "") }),
	plain("mount the kernel's debugging", false, func() error { return unix.Mount("none", "/mnt", "debugfs", 0, "") }),
	plain("mount an overlay", true, func() error {
		if err := errors.Join(unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""), os.Mkdir("/mnt/upper", 0o755), os.Mkdir("/mnt/work", 0o755)); err != nil {
			return err
		}
		return unix.Mount("overlay", "/mnt", "overlay", 0, "lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work")
	}),
	plain("make mounts shared", true, func() error { return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "") }),
	plain("make /usr writable", true, func() error {
		return errors.Join(unix.Mount("/usr", "/mnt", "", unix.MS_BIND, ""), unix.Mount("", "/mnt", "", unix.MS_BIND|unix.MS_REMOUNT, ""))
	}),
	plain("uncover what lies under /proc", true, func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }),
	plain("uncover what lies under /etc/shadow", false, func() error { return unix.Unmount("/etc/shadow", unix.MNT_DETACH) }),
	plain("pivot the root", true, func() error {
		if err := errors.Join(unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""), unix.Chdir("/mnt")); err != nil {
			return err
		}
		return unix.PivotRoot(".", ".")
	}),
	plain("chroot", true, func() error { return unix.Chroot("/tmp") }),
	plain("chroot twice, and out by a descriptor", true, func() error {
		top, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(unix.Chroot("/tmp"), unix.Fchdir(top)); err != nil {
			return err
		}
		return unix.Chroot("..")
	}),
	try{"climb above the root", false, func(args []string) error {
		fd, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		for range 100 {
			if err != nil {
				return err
			}
			fd, err = unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		}
		return readAt(fd, args)
	}},
	plain("open a file system", true, func() error { return call(unix.SYS_FSOPEN, text("tmpfs"), 0) }),
	plain("clone a tree of mounts", true, func() error { return call(unix.SYS_OPEN_TREE, at(unix.AT_FDCWD), text("/tmp"), unix.OPEN_TREE_CLONE) }),
	plain("clone a tree of mounts with attributes", false, func() error {
		var attr unix.MountAttr
		return call(unix.SYS_OPEN_TREE_ATTR, at(unix.AT_FDCWD), text("/tmp"), unix.OPEN_TREE_CLONE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}),
	plain("move a mount", false, func() error {
		return call(unix.SYS_MOVE_MOUNT, at(unix.AT_FDCWD), text("/proc"), at(unix.AT_FDCWD), text("/mnt"), 0)
	}),
	plain("change a mount", false, func() error {
		attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NOSUID}
		return call(unix.SYS_MOUNT_SETATTR, at(unix.AT_FDCWD), text("/workspace"), 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}),
	plain("new user namespace", true, func() error { return spawned(unix.CLONE_NEWUSER) }),
	plain("new mount namespace", true, func() error { return spawned(unix.CLONE_NEWNS) }),
	plain("new network namespace", true, func() error { return spawned(unix.CLONE_NEWNET) }),
	plain("new process namespace", true, func() error { return spawned(unix.CLONE_NEWPID) }),
	plain("new control group namespace", true, func() error { return spawned(unix.CLONE_NEWCGROUP) }),
	plain("new namespaces by clone3", true, func() error {
		var child int32
		args := [11]uint64{unix.CLONE_NEWNS | unix.CLONE_PARENT_SETTID, 0, 0, uint64(uintptr(unsafe.Pointer(&child))), uint64(unix.SIGCHLD)}
		pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		switch {
		case errno != 0:
			return errno
		case pid == 0:
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return nil
	}),
	plain("leave a namespace", true, func() error { return unix.Unshare(unix.CLONE_NEWUTS) }),
	plain("enter the namespaces of process 1", false, func() error {
		var failed error
		for _, kind := range []string{"mnt", "pid", "net", "user", "uts", "ipc", "cgroup"} {
			fd, err := unix.Open("/proc/1/ns/"+kind, unix.O_RDONLY, 0)
			if err == nil {
				err = unix.Setns(fd, 0)
			}
			if err == nil {
				return nil
			}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", kind, err))
		}
		return failed
	}),
	plain("enter namespaces by a process", true, func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWUTS|unix.CLONE_NEWNET)
	}),
}

// spawned starts a process in a new namespace.
func spawned(flags uintptr) error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	return cmd.Run()
}

// readAt reads a file of the host, by its absolute name there, below a directory.
func readAt(dir int, args []string) error {
	if len(args) != 1 {
		return errors.New("which file?")
	}
	fd, err := unix.Openat(dir, args[0][1:], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
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

// text is a string for a raw system call. It is never freed; there are few.
func text(s string) uintptr {
	raw, err := unix.Mmap(-1, 0, len(s)+1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	copy(raw, s)
	return uintptr(unsafe.Pointer(&raw[0]))
}

func at(fd int) uintptr { return uintptr(fd) }
