package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// files are attempts to reach files by other ways than their names, and devices.
var files = []try{
	plain("name a file by its handle", true, func() error {
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/tmp", 0)
		return err
	}),
	{"open a file by its handle", false, func(args []string) error {
		var failed error
		for _, from := range []string{"/", "/workspace", "/etc/hostname", "/usr"} {
			fd, err := unix.Open(from, unix.O_RDONLY, 0)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			// Inode 2 is the root of most disks.
			root, err := unix.OpenByHandleAt(fd, unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), unix.O_RDONLY)
			if err == nil {
				err = readAt(root, args)
			}
			if err == nil {
				return nil
			}
			failed = errors.Join(failed, err)
		}
		return failed
	}},
	plain("link a program of the host", false, func() error {
		var failed error
		for _, name := range []string{"/bin/bash", "/usr/bin/env", "/etc/passwd", "/proc/1/exe"} {
			err := unix.Linkat(unix.AT_FDCWD, name, unix.AT_FDCWD, "linked", unix.AT_SYMLINK_FOLLOW)
			if err == nil {
				return errors.Join(os.Remove("linked"))
			}
			failed = errors.Join(failed, err)
		}
		return failed
	}),
	plain("find control groups to write to", false, func() error {
		found, _ := filepath.Glob("/sys/fs/cgroup/*") // a constant pattern is well-formed
		more, _ := filepath.Glob("/sys/fs/cgroup/*/*")
		for _, path := range append(found, more...) {
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				return f.Close()
			}
		}
		return fmt.Errorf("none of %d", len(found)+len(more))
	}),
	plain("make a disk", false, func() error { return device("disk", unix.S_IFBLK, rootDisk()) }),
	plain("make the loop device", false, func() error { return device("loop", unix.S_IFBLK, unix.Mkdev(7, 0)) }),
	plain("make the memory device", false, func() error { return device("memory", unix.S_IFCHR, unix.Mkdev(1, 1)) }),
	plain("make the kernel's log", true, func() error { return device("log", unix.S_IFCHR, unix.Mkdev(1, 11)) }),
	plain("make the fuse device", false, func() error { return device("fuse", unix.S_IFCHR, unix.Mkdev(10, 229)) }),
	plain("open the memory device", false, func() error { return opened("/dev/mem") }),
	plain("open the ports device", false, func() error { return opened("/dev/port") }),
	plain("open the kernel's log", true, func() error { return opened("/dev/kmsg") }),
	plain("open the virtual machines", false, func() error { return opened("/dev/kvm") }),
	plain("open the network tunnel", false, func() error { return opened("/dev/net/tun") }),
	plain("open the fuse device", false, func() error { return opened("/dev/fuse") }),
	plain("open a disk", false, func() error {
		disks, _ := filepath.Glob("/dev/[svhx]d[a-z]*") // likewise
		more, _ := filepath.Glob("/dev/nvme*")
		for _, disk := range append(disks, more...) {
			if opened(disk) == nil {
				return nil
			}
		}
		return fmt.Errorf("none of %d", len(disks)+len(more))
	}),
	plain("open the kernel's memory", false, func() error {
		f, err := os.Open("/proc/kcore")
		if err != nil {
			return err
		}
		n, err := f.Read(make([]byte, 16))
		if n == 0 {
			return errors.Join(err, errNothing)
		}
		return nil
	}),
}

// rootDisk is the device the root is on; where that is none, a usual one. Some
// hosts do not let even root open it.
func rootDisk() uint64 {
	var info unix.Stat_t
	if err := unix.Stat("/", &info); err == nil && unix.Major(info.Dev) != 0 {
		return info.Dev
	}
	return unix.Mkdev(254, 0)
}

// device makes a device and opens it, wherever it can.
func device(name string, kind uint32, number uint64) error {
	var failed error
	for _, dir := range []string{"/tmp", ".", "/dev", "/dev/shm"} {
		path := filepath.Join(dir, name)
		err := unix.Mknod(path, kind|0o666, int(number))
		if err == nil {
			err = errors.Join(opened(path), os.Remove(path))
		}
		if err == nil {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func opened(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
