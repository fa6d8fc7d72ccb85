package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox/hostroot"
)

// mountErofs mounts an EROFS file as files of a sandbox's users: its root's where
// the file system has root's.
func mountErofs(path, target string, users hostroot.Users) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	source, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	// The kernel takes no path of more than 255 bytes here.
	if err := errors.Join(unix.FsconfigSetFlag(source, "ro"), unix.FsconfigSetString(source, "source", fmt.Sprintf("/proc/self/fd/%d", file.Fd())), unix.FsconfigCreate(source)); err != nil {
		return err
	}
	mount, err := unix.Fsmount(source, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	err = withUserNamespace(users, func(namespace *os.File) error {
		mapped := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
		return unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &mapped)
	})
	if err != nil {
		return fmt.Errorf("map its owners: %w", err)
	}
	return unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// withUserNamespace calls fn with a user namespace in which those users count from 0.
// There is none without a process, and the sandbox's own has yet to start.
func withUserNamespace(users hostroot.Users, fn func(*os.File) error) error {
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{usersEntry}, Env: []string{}, Dir: "/",
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: users.Map(), GidMappings: users.Map()},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a process of the sandbox's users: %w", err)
	}
	defer func() {
		stdin.Close()
		_ = cmd.Wait() // how it ended is of no use
	}()
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		return err
	}
	defer namespace.Close()
	return fn(namespace)
}

// beUsers is the main of that process: to be there while it is needed.
func beUsers() { _, _ = io.Copy(io.Discard, os.Stdin) }
