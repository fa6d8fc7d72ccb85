package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/shell"
)

const shellHelp = `Open a terminal in the sandbox of a session that a worker of this host serves,
beside the session's own shell: its files, its processes, its walls. The command
given after -- runs in it instead of bash; its exit code is that of this command.

It takes the worker's own user, or root. The worker records every byte typed and
shown, with who and when, in STATE/recordings; asciinema play shows it. What is
typed without being shown, a password too, is in it. Nobody who opens a shell can
switch that off: one that cannot be recorded is not opened.

The sandbox is neither parked nor destroyed while a shell is open in it. Shells
end when the worker is told to end. A session that has been idle for long has no
sandbox: send it a message first.`

func newShell() *cobra.Command {
	var (
		state string
		list  bool
	)
	cmd := &cobra.Command{
		Use:   "shell [SESSION] [-- COMMAND…]",
		Short: "Open a recorded terminal in a session's sandbox",
		Long:  shellHelp,
		Example: `  hearth shell --list
  hearth shell sesn_…
  hearth shell sesn_… -- ps aux`,
		GroupID: "daemon",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return listShells(cmd, state)
			}
			if len(args) == 0 {
				return usageError("which session? hearth shell --list shows those that have a sandbox on this host")
			}
			return openShell(cmd, state, shell.Open{Session: args[0], Command: args[1:]})
		},
	}
	cmd.Flags().StringVar(&state, "state", filepath.Join(defaultDataDir(), "worker"), "the worker's directory")
	cmd.Flags().BoolVar(&list, "list", false, "list the sessions that have a sandbox on this host")
	return cmd
}

func listShells(cmd *cobra.Command, state string) error {
	sessions, err := shell.List(cmd.Context(), state)
	for _, s := range sessions {
		fmt.Fprintln(cmd.OutOrStdout(), s)
	}
	if errors.Is(err, fs.ErrPermission) {
		return notYours(err)
	}
	return err
}

// notYours is for who may not reach the sockets of workers.
func notYours(err error) error { return usageError("%w; run it as the worker's user or root", err) }

func openShell(cmd *cobra.Command, state string, o shell.Open) error {
	o.Term = cmp.Or(os.Getenv("TERM"), "dumb")
	o.Size = hand.Size{Rows: 24, Columns: 80}
	t := shell.Terminal{In: cmd.InOrStdin(), Out: cmd.OutOrStdout()}
	t.Began = func(recording string) { fmt.Fprintf(cmd.ErrOrStderr(), "recorded in %s\n", recording) }
	if in, ok := t.In.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		restore, err := sit(int(in.Fd()), &o, &t)
		if err != nil {
			return err
		}
		defer restore()
	}
	code, err := t.Run(cmd.Context(), state, o)
	switch {
	case errors.Is(err, shell.ErrNone):
		return usageError("no worker runs on %s; name its directory with --state", state)
	case errors.Is(err, shell.ErrUnknown):
		return usageError("session %s has no sandbox with a worker on %s; send it a message to have it served, or see hearth shell --list", o.Session, state)
	case errors.Is(err, fs.ErrPermission):
		return notYours(err)
	case err != nil:
		return err
	case code != 0:
		return &exitError{code: code} // the command has said why
	}
	return nil
}

// sit makes the terminal on fd the sandbox's own.
func sit(fd int, o *shell.Open, t *shell.Terminal) (restore func(), err error) {
	size := func() (hand.Size, error) {
		columns, rows, err := term.GetSize(fd)
		return hand.Size{Rows: uint16(rows), Columns: uint16(columns)}, err
	}
	if s, err := size(); err == nil {
		o.Size = s
	}
	began := t.Began
	var before *term.State
	// Raw from when it is open: until then, keys that interrupt are to interrupt.
	t.Began = func(recording string) {
		began(recording)
		before, err = term.MakeRaw(fd)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	sizes, done := make(chan hand.Size), make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
				if s, err := size(); err == nil {
					select {
					case sizes <- s:
					case <-done:
						return
					}
				}
			case <-done:
				return
			}
		}
	}()
	t.Sizes = sizes
	return func() {
		signal.Stop(changed)
		close(done)
		if before != nil {
			_ = term.Restore(fd, before) // there is nothing else to try
		}
	}, nil
}
