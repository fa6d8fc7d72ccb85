// Package hostroot is what engines share that make a sandbox's root from the
// host's own files: which of them a sandbox sees, the mounts that show them,
// and the host users that stand behind a sandbox's. It owns the counter of
// those users and may call no package of ours.
package hostroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// system are the host's directories a sandbox sees.
var system = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt"}

// hidden are files of /etc that are nobody's business in a sandbox, whoever the
// worker runs as.
var hidden = []string{"shadow", "shadow-", "gshadow", "gshadow-", "sudoers", "ssh", "ssl/private", "krb5.keytab", "machine-id"}

// Own are the directories a sandbox has of its own, empty at first.
var Own = map[string]fs.FileMode{
	"tmp": 0o777 | fs.ModeSticky, "var": 0o755, "var/tmp": 0o777 | fs.ModeSticky, "run": 0o755, "home": 0o755, "root": 0o700, "mnt": 0o755, "srv": 0o755,
}

// System names the host's directories that a sandbox sees and that are
// directories here. Most are links into usr today, and need no mount.
func System() []string {
	var dirs []string
	for _, name := range system {
		if info, err := os.Lstat("/" + name); err == nil && info.IsDir() {
			dirs = append(dirs, name)
		}
	}
	return dirs
}

// Show makes the system directories appear below root: each as show mounts it,
// or read-only where show is nil or cannot; and the links beside them.
func Show(root string, show func(name, target string) error) error {
	for _, name := range system {
		host, target := "/"+name, filepath.Join(root, name)
		info, err := os.Lstat(host)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(host)
			if err != nil {
				return err
			}
			if err := os.Symlink(to, target); err != nil {
				return err
			}
			continue
		}
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if show != nil && show(name, target) == nil {
			continue
		}
		if err := Bind(host, target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	return nil
}

// Etc puts the sandbox's own files over those of the host's below root that
// name it, and nothing over those it must not see. Scratch holds what it puts.
func Etc(root, scratch string) error {
	for name, text := range map[string]string{
		"hostname": "sandbox\n", "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n", "resolv.conf": "# no network\n",
	} {
		target := filepath.Join(root, "etc", name)
		if info, err := os.Lstat(target); err != nil || !info.Mode().IsRegular() {
			continue
		}
		source := filepath.Join(scratch, name)
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			return err
		}
		if err := Bind(source, target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	emptyDir, emptyFile := filepath.Join(scratch, "empty"), filepath.Join(scratch, "nothing")
	if err := errors.Join(os.MkdirAll(emptyDir, 0o000), os.WriteFile(emptyFile, nil, 0o000)); err != nil {
		return err
	}
	for _, name := range hidden {
		target := filepath.Join(root, "etc", name)
		info, err := os.Lstat(target)
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			continue
		}
		source := emptyFile
		if info.IsDir() {
			source = emptyDir
		}
		if err := Bind(source, target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// Mount mounts and says what it tried when it fails.
func Mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source+" "+kind, target, err)
	}
	return nil
}

// Overlay mounts an overlay that keeps what is written in upper, over the lower
// directories, the first of which is on top. Work is an empty directory beside upper.
func Overlay(target, upper, work string, lower ...string) error {
	for i := range lower {
		lower[i] = quoted.Replace(lower[i])
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,userxattr", strings.Join(lower, ":"), quoted.Replace(upper), quoted.Replace(work))
	return Mount("overlay", target, "overlay", unix.MS_NOSUID|unix.MS_NODEV, data)
}

// quoted marks what would otherwise end a path in the options of an overlay.
var quoted = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`)

// Bind shows one place at another. The flags need a second step, in which those
// a mount of the host already has must be kept.
func Bind(source, target string, flags uintptr) error {
	if err := Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	var info unix.Statfs_t
	if err := unix.Statfs(target, &info); err != nil {
		return fmt.Errorf("statfs %s: %w", target, err)
	}
	for has, keep := range map[int64]uintptr{
		unix.ST_RDONLY: unix.MS_RDONLY, unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if info.Flags&has != 0 {
			flags |= keep
		}
	}
	return Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}
