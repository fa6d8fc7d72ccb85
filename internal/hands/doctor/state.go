package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// state looks at where a worker would keep its sessions' files.
func state(dir string, at scratch, scratchErr error) []Finding {
	const directory, system, space, inodes = "directory", "file system", "space", "inodes"
	place, err := existing(dir)
	if err != nil {
		return []Finding{failure(directory, "choose another with --state", "%v", err)}
	}
	found := []Finding{stateDirectory(directory, dir, place, at, scratchErr)}
	var info unix.Statfs_t
	if err := unix.Statfs(place, &info); err != nil {
		return append(found, failure(system, "choose another place with --state", "%s: %v", place, err))
	}
	if info.Flags&unix.ST_NOEXEC != 0 {
		found = append(found, warning("programs", "mount it without noexec, or choose another place with --state",
			"nothing on the file system of %s may be run: sessions cannot run programs that they write, but with the gvisor engine, and their sandboxes start more slowly", place))
	}
	return append(found, fileSystem(system, info), freeSpace(space, info), freeInodes(inodes, info))
}

// stateDirectory tells whether the directory can be made and written to.
func stateDirectory(name, dir, place string, at scratch, scratchErr error) Finding {
	err := scratchErr
	if err == nil {
		err = writeTo(filepath.Join(at.dir, "written"))
	}
	create := fmt.Sprintf("sudo install -d -m 711 -o %d -g %d %s", os.Getuid(), os.Getgid(), quoted(dir))
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return failure(name, "make room on it, or choose another place with --state", "nothing can be written to %s: %v", place, err)
	case errors.Is(err, unix.EROFS):
		return failure(name, "choose another place with --state", "%s is on a file system that can only be read", place)
	case errors.Is(err, fs.ErrPermission):
		return failure(name, create, "this user may not write to %s", place)
	case err != nil:
		return failure(name, create, "nothing can be written to %s: %v", place, err)
	}
	if _, err := os.Stat(dir); err != nil {
		return good(name, "%s can be made", dir)
	}
	return good(name, "%s can be written to", dir)
}

// writeTo writes a block to a new file, through to the disk.
func writeTo(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
}

// systems are the kinds of file system that do for a worker's state.
var systems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs", 0xca451a4e: "bcachefs",
}

// unsuited are those that do not, and why.
var unsuited = map[int64]struct{ name, why string }{
	unix.TMPFS_MAGIC:           {"tmpfs", "sessions' files take memory, and are lost when the host restarts"},
	unix.RAMFS_MAGIC:           {"ramfs", "sessions' files take memory, and are lost when the host restarts"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlayfs", "no further overlay can lie on it, and what it holds goes with its container"},
	unix.NFS_SUPER_MAGIC:       {"nfs", "no overlay can lie on it, and its locks and owners are another host's"},
	unix.SMB_SUPER_MAGIC:       {"smb", "it knows neither our owners nor our links"},
	unix.CIFS_SUPER_MAGIC:      {"cifs", "it knows neither our owners nor our links"},
	unix.SMB2_SUPER_MAGIC:      {"smb2", "it knows neither our owners nor our links"},
	unix.V9FS_MAGIC:            {"9p", "no overlay can lie on it"},
	unix.FUSE_SUPER_MAGIC:      {"fuse", "what it can do is up to a program"},
	unix.MSDOS_SUPER_MAGIC:     {"fat", "it knows neither owners nor links"},
}

func fileSystem(name string, info unix.Statfs_t) Finding {
	const fix = "put --state on a local disk with ext4, xfs or btrfs (in a container, on a volume)"
	kind := int64(uint32(info.Type)) // some magic numbers are negative otherwise
	if info.Flags&unix.ST_RDONLY != 0 {
		return failure(name, "sudo mount -o remount,rw …, or choose another place with --state", "mounted to be read only")
	}
	if info.Flags&unix.ST_NOEXEC != 0 {
		return warning(name, "sudo mount -o remount,exec …, or choose another place with --state", "mounted noexec: sessions cannot run what they write")
	}
	if u, bad := unsuited[kind]; bad {
		return warning(name, fix, "%s: %s", u.name, u.why)
	}
	if known, ok := systems[kind]; ok {
		return good(name, "%s", known)
	}
	return warning(name, fix, "of a kind nobody has tried (%#x)", kind)
}

func freeSpace(name string, info unix.Statfs_t) Finding {
	const fix, least, little = "make room, or choose another place with --state", 100 << 20, 2 << 30
	free := info.Bavail * uint64(info.Bsize)
	text := fmt.Sprintf("%s free of %s", size(free), size(info.Blocks*uint64(info.Bsize)))
	switch {
	case free < least:
		return failure(name, fix, "%s", text)
	case free < little:
		return warning(name, fix, "%s, which one session may fill", text)
	}
	return good(name, "%s", text)
}

func freeInodes(name string, info unix.Statfs_t) Finding {
	const fix, least, few = "remove small files, or choose another place with --state", 1000, 100_000
	switch {
	case info.Files == 0:
		return good(name, "as many as there is room for")
	case info.Ffree < least:
		return failure(name, fix, "%d free: no more files can be made soon", info.Ffree)
	case info.Ffree < few:
		return warning(name, fix, "%d free, which one session may use up", info.Ffree)
	}
	return good(name, "%d free", info.Ffree)
}
