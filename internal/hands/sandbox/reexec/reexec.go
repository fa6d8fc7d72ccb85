// Package reexec lets one binary be several programs: a process started under
// the name of an entry runs that entry instead of main. Engines register what
// runs inside their sandboxes. It may call no package of ours.
package reexec

import "os"

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
