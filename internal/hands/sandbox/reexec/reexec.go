// Package reexec lets one binary be several programs: a process started under
// the name of an entry runs that entry instead of main. Engines register what
// runs inside their sandboxes. It may call no package of ours.
package reexec

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// init ends a process that could start nothing, in words of ours: later, some
// of what is linked in would not get over it.
func init() {
	if _, err := os.Lstat("/proc/self"); err != nil {
		os.Stderr.WriteString("hearth: /proc is not mounted, and nothing works without; run: mount -t proc proc /proc\n")
		os.Exit(1)
	}
}

// Register makes run what a process called name does: in such a process it
// runs run and then exits, and does not return. Call it from init. There the
// packages that run needs are ready, and the many that the rest of the binary
// needs have not been waited for.
func Register(name string, run func()) {
	if os.Args[0] != name {
		return
	}
	// Elsewhere than on this goroutine, which is tied to its thread as long as
	// packages are initialised.
	go func() {
		run()
		os.Exit(0)
	}()
	select {}
}

// CloseInherited closes the descriptors from first on that this process was
// given by those who started it, and which they may have been given themselves
// without knowing. What this process has opened stays.
func CloseInherited(first int) error {
	const own = "/proc/self/fd"
	entries, err := os.ReadDir(own)
	if err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < first {
			continue
		}
		// Inherited is what was not marked to be closed; all of ours is.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}
