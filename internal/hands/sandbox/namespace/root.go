package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/hostroot"
)

// root is where the root of a sandbox is made, in paths of the host.
type root struct {
	// Mount is an empty directory to mount the root on.
	Mount string
	// Scratch holds what the sandbox writes outside its working directory.
	Scratch string
	// Workdir is the session's working directory.
	Workdir string
	// Mnt is what appears at /mnt; "" for a directory of the sandbox's own.
	Mnt string
	// System are those of the host's directories that lie under an overlay.
	System []string
	// Image is the file whose file system lies under an overlay as a whole, instead
	// of those; "" for none.
	Image string
	// Users are the sandbox's.
	Users hostroot.Users
}

// newRoot makes the directories a root needs.
func newRoot(dir string, spec sandbox.Spec, users hostroot.Users) (root, error) {
	spec, err := spec.Absolute()
	if err != nil {
		return root{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return root{}, err
	}
	r := root{Mount: filepath.Join(dir, "root"), Scratch: filepath.Join(dir, "scratch"), Mnt: spec.Mnt, Workdir: spec.Workdir, Image: spec.Root, Users: users}
	made := []string{r.Mount, r.Scratch, r.lower(), r.upper(""), r.work(""), r.own("")} // those that hold others first
	r.System = hostroot.System()
	if r.Image != "" {
		r.System = []string{""} // all of it is one
	} else {
		for _, name := range r.System {
			made = append(made, r.upper(name), r.work(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(hostroot.Own)) {
		made = append(made, r.own(name))
	}
	for _, path := range made {
		if err := os.Mkdir(path, 0o755); err != nil {
			return r, err
		}
	}
	for _, name := range r.System {
		if err := users.Chown(r.upper(name)); err != nil {
			return r, err
		}
	}
	for name, mode := range hostroot.Own {
		// Mkdir sets no sticky bit.
		if err := errors.Join(os.Chmod(r.own(name), mode), users.Chown(r.own(name))); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r root) lower() string            { return filepath.Join(r.Scratch, "lower") }
func (r root) upper(name string) string { return filepath.Join(r.Scratch, "upper", name) }
func (r root) work(name string) string  { return filepath.Join(r.Scratch, "work", name) }
func (r root) own(name string) string   { return filepath.Join(r.Scratch, "own", name) }

// enter makes the root, in a new mount namespace, the calling thread's own.
func (r root) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	return r.pivot()
}

// pivot makes the root in the mount namespace of the calling thread, and leaves
// the host's behind.
func (r root) pivot() error {
	if err := hostroot.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	base := r.mountSystem
	if r.Image != "" {
		base = r.mountImage
	}
	for _, part := range []func() error{base, r.mountOwn, r.mountDevices, r.mountKernel} {
		if err := part(); err != nil {
			return err
		}
	}
	if err := unix.Chdir(r.Mount); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root is now on top of the new one; it goes, and everything of the
	// host with it.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return unix.Chdir("/")
}

// mountSystem shows the host's system directories under an overlay. What the
// sandbox writes to them goes to its scratch, where the files' owners allow it
// to write at all.
func (r root) mountSystem() error {
	if err := hostroot.Mount("tmpfs", r.Mount, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return err
	}
	if err := hostroot.Mount("tmpfs", r.lower(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return err
	}
	opened, err := r.open()
	if err != nil {
		return err
	}
	overlay := func(name, target string) error {
		if opened[name] {
			return hostroot.Overlay(target, r.upper(name), r.work(name), filepath.Join(r.lower(), name), "/"+name)
		}
		return hostroot.Overlay(target, r.upper(name), r.work(name), "/"+name)
	}
	if err := hostroot.Show(r.Mount, overlay); err != nil {
		return err
	}
	return hostroot.Etc(r.Mount, r.lower())
}

// mountImage shows an image under an overlay. Package image has seen to it that
// what is mounted upon below is there, and is no link that would lead away.
func (r root) mountImage() error {
	err := mountErofs(r.Image, r.lower(), r.Users)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTBLK) {
		return fmt.Errorf("this kernel cannot mount an EROFS file (Linux 6.12 can); use the gvisor engine: %w", err)
	}
	if err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	return hostroot.Overlay(r.Mount, r.upper(""), r.work(""), r.lower())
}

// mountOwn puts in place what the sandbox has of its own.
func (r root) mountOwn() error {
	own := []string{"tmp", "var", "run", "home", "root", "mnt", "srv"}
	if r.Image != "" {
		own = []string{"tmp", "run", "home", "root", "mnt"}
	}
	for _, name := range own {
		target := filepath.Join(r.Mount, name)
		if err := mkdir(target); err != nil {
			return err
		}
		from := r.own(name)
		if name == "mnt" && r.Mnt != "" {
			from = r.Mnt
		}
		if err := hostroot.Bind(from, target, unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	workdir := filepath.Join(r.Mount, sandbox.GuestWorkdir)
	if err := mkdir(workdir); err != nil {
		return err
	}
	return hostroot.Bind(r.Workdir, workdir, unix.MS_NOSUID|unix.MS_NODEV)
}

// mkdir makes a directory that an image may have.
func mkdir(name string) error {
	if err := os.Mkdir(name, 0o755); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// devices are those of the host's that a sandbox may use.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// mountDevices makes /dev. Only root can make devices; without, they are the host's own,
// whose locks are, too.
func (r root) mountDevices() error {
	dev := filepath.Join(r.Mount, "dev")
	if err := mkdir(dev); err != nil {
		return err
	}
	flags, device := uintptr(unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV), showDevice
	if r.Users.Many() {
		flags, device = unix.MS_NOSUID|unix.MS_NOEXEC, makeDevice
	}
	if err := hostroot.Mount("tmpfs", dev, "tmpfs", flags, "mode=0755,size=1m"); err != nil {
		return err
	}
	for _, dir := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	for _, name := range devices {
		if err := device("/dev/"+name, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeDevice makes one like that of the host.
func makeDevice(host, target string) error {
	var info unix.Stat_t
	if err := unix.Stat(host, &info); err != nil {
		return fmt.Errorf("look at %s: %w", host, err)
	}
	if err := unix.Mknod(target, unix.S_IFCHR|0o666, int(info.Rdev)); err != nil {
		return fmt.Errorf("make a device like %s: %w", host, err)
	}
	return os.Chmod(target, 0o666) // whatever the umask
}

// showDevice shows that of the host.
func showDevice(host, target string) error {
	if err := os.WriteFile(target, nil, 0o666); err != nil {
		return err
	}
	return hostroot.Mount(host, target, "", unix.MS_BIND, "")
}

// mountKernel shows the host's /proc, which the sandbox needs to be allowed its
// own, and by which it is started; its own then covers it.
func (r root) mountKernel() error {
	target := filepath.Join(r.Mount, "proc")
	if err := mkdir(target); err != nil {
		return err
	}
	return hostroot.Mount("/proc", target, "", unix.MS_BIND|unix.MS_REC, "")
}
