package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostos"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/gvisor/guest"
	"hearth/internal/hands/sandbox/hostroot"
)

// stage is where a keeper lays out what gVisor needs, on a file system that only
// its own mount namespace has. Those who own the guest's users must be able to
// reach it, as they may not reach the worker's state.
const stage = "/run"

// state is where gVisor keeps what it knows of the guest.
const state = stage + "/state"

func (o Orders) mountRoot() error {
	if err := hostroot.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// What may lie below the stage is held on to before it is covered.
	root, scratch := filepath.Join(stage, "root"), filepath.Join(o.Dir, "scratch")
	if err := errors.Join(os.MkdirAll(scratch, 0o700), o.Users.Chown(scratch)); err != nil {
		return err
	}
	program := filepath.Join(root, guest.Path)
	held := map[string]string{o.Workdir: filepath.Join(stage, "workdir"), scratch: filepath.Join(stage, "scratch"), o.Image: filepath.Join(stage, "image")}
	if o.Rootfs != "" {
		program = filepath.Join(stage, "hand")
		held[o.Rootfs] = filepath.Join(stage, "rootfs")
	}
	held[o.Hand] = program
	if o.Mnt != "" {
		held[o.Mnt] = filepath.Join(stage, "mnt")
	}
	if o.From != "" {
		held[o.From] = filepath.Join(stage, "from")
	}
	open := map[string]int{}
	for path, target := range held {
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		defer unix.Close(fd)
		if path == o.Hand || path == o.Rootfs {
			sealed := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
			if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &sealed); err != nil {
				return fmt.Errorf("seal %s: %w", path, err)
			}
		}
		open[target] = fd
	}
	if err := hostroot.Mount("tmpfs", stage, "tmpfs", unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return err
	}
	for _, dir := range []string{"root", "state", "etc", "workdir", "mnt", "scratch", "image", "from"} {
		if err := os.Mkdir(filepath.Join(stage, dir), 0o755); err != nil {
			return err
		}
	}
	for _, file := range []string{program, filepath.Join(stage, "rootfs")} {
		if err := os.WriteFile(file, nil, 0o755); err != nil {
			return err
		}
	}
	for target, fd := range open {
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount on %s: %w", target, err)
		}
	}
	if o.Rootfs == "" {
		if err := errors.Join(hostroot.Show(root, nil), hostroot.Etc(root, filepath.Join(stage, "etc")), o.makeOwn(root)); err != nil {
			return err
		}
	}
	// gVisor looks for its own processes in /proc.
	if err := hostroot.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return o.tellMemory()
}

// tellMemory has gVisor take the limit of memory for all the memory there is, and
// tell the guest, where programs choose by it how much they take.
func (o Orders) tellMemory() error {
	if o.Limits.MemoryBytes <= 0 {
		return nil
	}
	whole, err := hostos.TotalSystemMemory()
	if err != nil {
		return err
	}
	ours := filepath.Join(stage, "meminfo")
	text := fmt.Sprintf("MemTotal: %d kB\n", min(uint64(o.Limits.MemoryBytes), whole)>>10)
	return errors.Join(os.WriteFile(ours, []byte(text), 0o444), hostroot.Mount(ours, "/proc/meminfo", "", unix.MS_BIND, ""))
}

// makeOwn makes the directories the guest has of its own.
func (o Orders) makeOwn(root string) error {
	for _, name := range []string{"tmp", "var", "var/tmp", "run", "home", "root", "mnt", "srv"} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, hostroot.Own[name]), o.Users.Chown(path)); err != nil {
			return err
		}
	}
	// gVisor covers an empty /tmp with memory; this one belongs on the disk.
	held := filepath.Join(root, guest.Placeholder)
	if err := errors.Join(os.WriteFile(held, nil, 0o600), o.Users.Chown(held)); err != nil {
		return err
	}
	for _, name := range []string{"proc", "sys", "dev", sandbox.GuestWorkdir} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}
