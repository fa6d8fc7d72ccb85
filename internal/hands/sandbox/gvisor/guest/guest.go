// Package guest is the first process of a gVisor guest: the hand. It is apart from
// the engine, so that the program that runs in guests need not hold gVisor. It
// may call hand and what engines share.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/filter"
	"hearth/internal/hands/sandbox/reexec"
)

const (
	// Path is where the guest has the program, and what it is started as.
	Path = "/.hearth"
	// Processes is the variable by which it learns how many processes its shell may
	// start.
	Processes = "HEARTH_PROCESSES"
	// Placeholder is a file that is gone before anybody sees it.
	Placeholder = "/tmp/.hearth"
)

func init() { reexec.Register(Path, serve) }

func serve() {
	// First, while there are few threads: the guest's kernel looks through the filter
	// once for each.
	err := filter.Load()
	hand.Shrug()
	var processes int
	_, _ = fmt.Sscan(os.Getenv(Processes), &processes) // always set
	os.Unsetenv(Processes)
	// What runs here shares our user; it must not look into us. And the guest's own
	// devices, which nobody in it needs, go.
	err = errors.Join(err, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0), os.RemoveAll("/dev/fuse"), os.RemoveAll("/dev/net"), os.Remove(Placeholder))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	err = hand.Serve(context.Background(), os.Stdin, os.Stdout, hand.Config{
		Workdir: sandbox.GuestWorkdir, Beside: sandbox.GuestMnt, Env: os.Environ(), Init: true, Processes: processes,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
