// Package guest is a container's first process: the hand. It is apart from the
// engine, so that the program that runs in containers need hold nothing else. It
// may call hand and what engines share.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/filter"
	"hearth/internal/hands/sandbox/reexec"
)

// Path is where a container has the program, and what it is started as.
const Path = "/.hearth-docker"

func init() { reexec.Register(Path, run) }

// run is a container's first process: the hand.
func run() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve finishes the walls from within and serves the tools. It is told how many
// processes the shell may start, 0 for what the daemon lets it, and how many files
// each may open.
func serve(args []string) error {
	hand.Shrug()
	if len(args) != 2 {
		return errors.New("not started by a worker")
	}
	processes, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	openFiles, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	if _, err := os.Stat("/bin/bash"); err != nil {
		return errors.New("the image has no /bin/bash; name one that has with --docker-image")
	}
	// Here, and not by the daemon: it might not be allowed to give as many.
	if err := hand.LimitFiles(openFiles); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	// What runs here shares our user; it must not look into us.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close /proc/1: %w", err)
	}
	if err := filter.Load(); err != nil {
		return err
	}
	return hand.Serve(context.Background(), os.Stdin, os.Stdout, hand.Config{
		Workdir: sandbox.GuestWorkdir, Beside: sandbox.GuestMnt, Env: os.Environ(), Init: true, Processes: processes,
	})
}
