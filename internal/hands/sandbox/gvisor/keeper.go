package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli/maincli"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/gvisor/guest"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/reexec"
)

// keeper is what this binary is started as by us, to keep a sandbox. By gVisor it
// is started as its parts.
const keeper = "hearth-gvisor"

func init() {
	reexec.Register(keeper, keep)
	for _, part := range []string{"runsc", "runsc-gofer", "runsc-sandbox", "/proc/self/exe"} {
		reexec.Register(part, func() {
			go settle()
			maincli.Main()
		})
	}
}

// settle gives back what starting took, once that should be over: many sandboxes
// idle for long. Until then nothing is collected, for what starts soon needs most
// of what it makes.
func settle() {
	percent := debug.SetGCPercent(-1)
	time.Sleep(time.Second)
	debug.SetGCPercent(percent)
	debug.FreeOSMemory()
}

// orders are what a keeper is told, on descriptor 3.
type orders struct {
	ID      string
	Dir     string // the sandbox's own, on the host
	Workdir string
	Mnt     string // "" for a directory of the guest's own
	Rootfs  string // the file that the root is read from; "" for the host's files
	Hand    string // the file of the guest's first process
	Users   hostroot.Users
	Env     map[string]string
	Limits  sandbox.Limits
	Image   string // the directory for a checkpoint of the guest
	From    string // that of the checkpoint it begins with; "" for none
}

// keep makes the guest's root, in a mount namespace of this process, and
// becomes the part of gVisor that runs it.
func keep() {
	o, err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	unix.CloseOnExec(4)
	go obey(os.NewFile(4, "control"), o.ID, o.flags())
	os.Args = o.command()
	go settle()
	maincli.Main()
}

func prepare() (o orders, err error) {
	hand.Shrug()
	if err := reexec.CloseInherited(5); err != nil {
		return o, err
	}
	from := os.NewFile(3, "orders")
	if err := json.NewDecoder(from).Decode(&o); err != nil {
		return o, fmt.Errorf("read the orders: %w", err)
	}
	from.Close()
	if err := o.mountRoot(); err != nil {
		return o, err
	}
	bundle, err := json.Marshal(o.bundle())
	if err != nil {
		return o, err
	}
	if err := os.WriteFile(filepath.Join(stage, "config.json"), bundle, 0o644); err != nil {
		return o, err
	}
	return o, os.Chdir(stage)
}

// command starts the guest, or restores it.
func (o orders) command() []string {
	if o.From != "" {
		return append(o.flags(), "restore", "--bundle="+stage, "--image-path="+filepath.Join(stage, "from"), o.ID)
	}
	return append(o.flags(), "run", "--bundle="+stage, o.ID)
}

// flags are gVisor's. The platform is named, for probing another may hang; so is
// the policy about parts on disk, of which there are none. A guest is restored to
// what it was made from, but for the users of this host that stand behind its own:
// those are others on another host, and gVisor would not have it.
func (o orders) flags() []string {
	overlay := "--overlay2=root:dir=" + filepath.Join(stage, "scratch")
	if o.Limits.DiskBytes > 0 {
		overlay += fmt.Sprintf(",size=%d", o.Limits.DiskBytes)
	}
	return []string{
		"runsc", "--root=" + filepath.Join(stage, "state"), "--platform=systrap", "--network=none", "--ignore-cgroups", overlay,
		"--host-uds=none", "--host-fifo=none", "--restore-spec-validation=ignore", "--oci-seccomp=false", "--sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK",
	}
}

// stage is where a keeper lays out what gVisor needs, on a file system that only
// its own mount namespace has. Those who own the guest's users must be able to
// reach it, as they may not reach the worker's state.
const stage = "/run"

func (o orders) mountRoot() error {
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
	return hostroot.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// makeOwn makes the directories the guest has of its own.
func (o orders) makeOwn(root string) error {
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
