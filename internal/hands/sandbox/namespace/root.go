package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
)

// root is where the root of a sandbox is made, in paths of the host.
type root struct {
	// Mount is an empty directory to mount the root on.
	Mount string
	// Scratch holds what the sandbox writes outside its working directory.
	Scratch string
	// Workdir is the session's working directory.
	Workdir string
	// System are those of the host's directories that lie under an overlay.
	System []string
}

// system are the host's directories a sandbox sees. What it writes to them goes
// to its scratch, where the files' owners allow it to write at all.
var system = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt"}

// own are the directories a sandbox has of its own, empty at first.
var own = map[string]fs.FileMode{"tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "run": 0o755, "home": 0o755, "root": 0o700, "mnt": 0o755, "srv": 0o755}

// hidden are files of /etc that are nobody's business in a sandbox, whoever the
// worker runs as.
var hidden = []string{"shadow", "shadow-", "gshadow", "gshadow-", "sudoers", "ssh", "ssl/private", "krb5.keytab", "machine-id"}

// newRoot makes the directories a root needs.
func newRoot(dir, workdir string, users mapping) (root, error) {
	workdir, err := filepath.Abs(workdir)
	if err != nil {
		return root{}, err
	}
	r := root{Mount: filepath.Join(dir, "root"), Scratch: filepath.Join(dir, "scratch"), Workdir: workdir}
	made := []string{r.Mount, r.Scratch}
	for _, name := range system {
		// Most are links into usr today, and need nothing.
		if info, err := os.Lstat("/" + name); err == nil && info.IsDir() {
			r.System = append(r.System, name)
			made = append(made, r.upper(name), r.work(name))
		}
	}
	for name := range own {
		made = append(made, r.own(name))
	}
	for _, path := range made {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return r, err
		}
	}
	for _, name := range r.System {
		if err := chown(users, r.upper(name)); err != nil {
			return r, err
		}
	}
	for name, mode := range own {
		// Chmod, for Mkdir does not set the sticky bit.
		if err := errors.Join(os.Chmod(r.own(name), mode|sticky(mode)), chown(users, r.own(name))); err != nil {
			return r, err
		}
	}
	return r, nil
}

func sticky(mode fs.FileMode) fs.FileMode {
	if mode&0o1000 != 0 {
		return fs.ModeSticky
	}
	return 0
}

func chown(users mapping, path string) error {
	if users.size == 1 {
		return nil
	}
	return os.Lchown(path, users.outside, users.outside)
}

func (r root) upper(name string) string { return filepath.Join(r.Scratch, "upper", name) }
func (r root) work(name string) string  { return filepath.Join(r.Scratch, "work", name) }
func (r root) own(name string) string   { return filepath.Join(r.Scratch, "own", name) }

// onThread runs fn on a thread that ends with it, so that whatever namespaces
// fn has put it into end with it too.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- fn()
	}()
	return <-done
}

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
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", r.Mount, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return err
	}
	for _, part := range []func() error{r.mountSystem, r.mountOwn, r.mountDevices, r.mountKernel} {
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

// mount mounts and says what it tried when it fails.
func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source+" "+kind, target, err)
	}
	return nil
}

// mountSystem shows the host's system directories under an overlay, or read-only
// where there can be none.
func (r root) mountSystem() error {
	for _, name := range system {
		host, target := "/"+name, filepath.Join(r.Mount, name)
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
		data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,userxattr", host, r.upper(name), r.work(name))
		if mount("overlay", target, "overlay", unix.MS_NOSUID|unix.MS_NODEV, data) == nil {
			continue
		}
		if err := bind(host, target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	return r.mountEtc()
}

// mountEtc puts the sandbox's own files over those of the host's that name it,
// and nothing over those it must not see.
func (r root) mountEtc() error {
	for name, text := range map[string]string{
		"hostname": "sandbox\n", "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n", "resolv.conf": "# no network\n",
	} {
		target := filepath.Join(r.Mount, "etc", name)
		if info, err := os.Lstat(target); err != nil || !info.Mode().IsRegular() {
			continue
		}
		source := filepath.Join(r.Scratch, name)
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			return err
		}
		if err := bind(source, target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	empty := filepath.Join(r.Scratch, "empty")
	if err := os.MkdirAll(empty, 0o000); err != nil {
		return err
	}
	for _, name := range hidden {
		target := filepath.Join(r.Mount, "etc", name)
		info, err := os.Lstat(target)
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			continue
		}
		source := "/dev/null"
		if info.IsDir() {
			source = empty
		}
		if err := bind(source, target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// bind shows one place at another. The flags need a second step, in which those
// a mount of the host already has must be kept.
func bind(source, target string, flags uintptr) error {
	if err := mount(source, target, "", unix.MS_BIND, ""); err != nil {
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
	return mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

// mountOwn puts in place what the sandbox has of its own.
func (r root) mountOwn() error {
	for _, name := range []string{"tmp", "var", "run", "home", "root", "mnt", "srv"} {
		target := filepath.Join(r.Mount, name)
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if err := bind(r.own(name), target, unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	workdir := filepath.Join(r.Mount, sandbox.GuestWorkdir)
	if err := os.Mkdir(workdir, 0o755); err != nil {
		return err
	}
	return bind(r.Workdir, workdir, unix.MS_NOSUID|unix.MS_NODEV)
}

// devices are those of the host's that a sandbox may use.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

func (r root) mountDevices() error {
	dev := filepath.Join(r.Mount, "dev")
	for _, dir := range []string{"", "pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	for _, name := range devices {
		target := filepath.Join(dev, name)
		if err := os.WriteFile(target, nil, 0o666); err != nil {
			return err
		}
		if err := mount("/dev/"+name, target, "", unix.MS_BIND, ""); err != nil {
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

// mountKernel shows the host's /proc, which the sandbox needs to be allowed its
// own, and by which it is started; its own then covers it.
func (r root) mountKernel() error {
	target := filepath.Join(r.Mount, "proc")
	if err := os.Mkdir(target, 0o555); err != nil {
		return err
	}
	return mount("/proc", target, "", unix.MS_BIND|unix.MS_REC, "")
}
