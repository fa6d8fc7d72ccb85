package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox/filter"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/reexec"
)

// entry is what this binary is started as, to try in new namespaces what a
// sandbox is made of there.
const entry = "hearth-doctor"

func init() { reexec.Register(entry, inside) }

// The steps tried inside.
const (
	stepMounts  = "mounts"
	stepOverlay = "overlayfs"
	stepProc    = "a /proc of its own"
	stepSeccomp = "seccomp"
)

// inside tries each step in the directory it is started in, and tells by name
// which of them failed, and why. What it mounts ends with it.
func inside() {
	outcome := map[string]string{}
	if dir, err := os.Getwd(); err == nil && dir != "/" { // else only the start is tried
		try := func(name string, step func(dir string) error) {
			if err := step(dir); err != nil {
				outcome[name] = err.Error()
			}
		}
		try(stepMounts, tryMounts)
		try(stepOverlay, tryOverlay)
		try(stepProc, tryProc)
		try(stepSeccomp, func(string) error { return filter.Load() })
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcome); err != nil {
		os.Exit(1)
	}
}

func tryMounts(dir string) error {
	if err := hostroot.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := errors.Join(os.Mkdir(from, 0o700), os.Mkdir(to, 0o700)); err != nil {
		return err
	}
	if err := hostroot.Mount("tmpfs", from, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k"); err != nil {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

func tryOverlay(dir string) error {
	upper, work, merged := filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "merged")
	for _, d := range []string{upper, work, merged} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	return hostroot.Overlay(merged, upper, work, "/usr")
}

func tryProc(dir string) error {
	target := filepath.Join(dir, "proc")
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	return hostroot.Mount("proc", target, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}
