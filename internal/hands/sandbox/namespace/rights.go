package namespace

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/filter"
)

// giveUp takes from this process, on all its threads, and from all it will
// start, what a sandbox must not do.
func giveUp(onImage bool) error {
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	// What runs here shares our user; it must not look into us.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close /proc/1: %w", err)
	}
	if err := restrictFiles(onImage); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return filter.Load()
}

// kept are the capabilities that what runs in a sandbox may have over it: those
// by which root handles files and users.
var kept = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_NET_BIND_SERVICE}

func dropCapabilities() error {
	var keep [2]uint32
	for _, c := range kept {
		keep[c/32] |= 1 << (c % 32)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep[0], Permitted: keep[0]}, {Effective: keep[1], Permitted: keep[1]}}
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// newLauncher returns what starts the shell: a thread that may never again be
// given the capabilities that are not kept, nor may what it starts. The hand
// itself starts nothing else and, without new privileges, gains none either;
// to forbid it on all its threads would cost more than all other walls.
func newLauncher() (func(*exec.Cmd) error, error) {
	type order struct {
		cmd     *exec.Cmd
		started chan error
	}
	orders := make(chan order)
	bound := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		bound <- boundCapabilities()
		for o := range orders {
			o.started <- o.cmd.Start()
		}
	}()
	launch := func(cmd *exec.Cmd) error {
		o := order{cmd, make(chan error)}
		orders <- o
		return <-o.started
	}
	return launch, <-bound
}

// boundCapabilities bounds what the calling thread may ever have.
func boundCapabilities() error {
	for c := range 64 {
		if slices.Contains(kept, c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last capability this kernel knows
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restrictFiles is a second wall behind the mounts: should something of the
// host become visible, it still cannot be opened.
// What an image has may be anywhere, and is the sandbox's own.
func restrictFiles(onImage bool) error {
	var all []landlock.Rule
	if onImage {
		all = append(all, landlock.RWDirs("/").WithRefer())
	}
	return landlock.V5.BestEffort().RestrictPaths(append(all,
		landlock.RODirs("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc").IgnoreIfMissing(),
		landlock.RWDirs("/usr", "/opt", "/etc").IgnoreIfMissing(),
		landlock.RWDirs(sandbox.GuestWorkdir, "/tmp", "/var", "/run", "/home", "/root", "/mnt", "/srv", "/dev", "/proc").WithRefer().WithIoctlDev(),
	)...)
}
