package shell

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hearth/api"
	"hearth/internal/hands/hand"
)

// Sandboxes are those of a worker.
type Sandboxes interface {
	// Running lists the sessions that have one.
	Running() []string
	// Terminal opens a terminal in a session's; ErrUnknown where it has none.
	Terminal(ctx context.Context, sessionID string, t hand.Terminal) (*hand.Screen, error)
}

// ErrUnknown says that a session has no sandbox here.
var ErrUnknown = errors.New("the session has no running sandbox")

// Server lets operators in.
type Server struct {
	// StateDir is the worker's. Required.
	StateDir string
	// Sandboxes are what they are let into. Required.
	Sandboxes Sandboxes
	Log       *slog.Logger // required
}

// Run serves operators until ctx ends; their terminals end with it.
func (s *Server) Run(ctx context.Context) error {
	dir := filepath.Join(s.StateDir, socketDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	sweep(s.StateDir)
	path := filepath.Join(dir, rand.Text()+socketExt) // a process may have several workers
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("listen for operators: %w", err)
	}
	defer os.Remove(path)
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		c, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen for operators: %w", err)
		}
		open.Go(func() {
			defer c.Close()
			s.serve(ctx, newLine(c))
		})
	}
}

// sweep removes the sockets of workers that were killed.
func sweep(stateDir string) {
	all, _ := sockets(stateDir) // they are in nobody's way
	for _, socket := range all {
		if c, _ := connect(socket); c != nil {
			c.Close()
		}
	}
}

// listen makes a socket that others see once connections to it are not refused: one
// that refuses them is taken for a killed worker's.
func listen(path string) (listener net.Listener, err error) {
	unseen := strings.TrimSuffix(path, socketExt)
	err = through(unseen, func(short string) (err error) {
		listener, err = net.Listen("unix", short)
		return err
	})
	if err != nil {
		return nil, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // its short name is no longer valid
	err = os.Chmod(unseen, 0o600)
	if err == nil {
		err = os.Rename(unseen, path)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close(), os.Remove(unseen))
	}
	return listener, nil
}

// operator is who is at the other end of a connection.
type operator struct {
	UID int `json:"uid"`
	PID int `json:"pid"`
}

// identify asks the kernel.
func identify(c net.Conn) (operator, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return operator{}, err
	}
	var peer *unix.Ucred
	var e error
	err = raw.Control(func(fd uintptr) { peer, e = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, e); err != nil {
		return operator{}, err
	}
	return operator{UID: int(peer.Uid), PID: int(peer.Pid)}, nil
}

func (s *Server) serve(ctx context.Context, l line) {
	who, err := identify(l.Conn)
	if err != nil || who.UID != os.Getuid() && who.UID != 0 {
		s.Log.Warn("refused an operator", "uid", who.UID, "pid", who.PID, "error", err)
		return
	}
	// Who says nothing must not keep the worker from ending.
	waiting := context.AfterFunc(ctx, func() { l.Close() })
	var m message
	if err := l.in.Decode(&m); err != nil || !waiting() {
		return
	}
	switch {
	case m.List:
		_ = l.out.Encode(message{Sessions: s.Sandboxes.Running()}) // who asked may have gone
	case m.Open != nil:
		if err := s.open(ctx, l, who, *m.Open); err != nil {
			_ = l.out.Encode(message{Err: err.Error(), Unknown: errors.Is(err, ErrUnknown)})
		}
	}
}

// open gives an operator a terminal, and records it. What cannot be recorded does
// not happen.
func (s *Server) open(serving context.Context, l line, who operator, o Open) error {
	ctx, cancel := context.WithCancel(serving)
	defer cancel()
	id := strings.TrimPrefix(api.NewID("shell"), "shell_")
	// First: a terminal that is there may already have run its command.
	r, err := newRecording(filepath.Join(s.StateDir, recordingDir), id, who, o)
	if err != nil {
		return fmt.Errorf("the shell cannot be recorded, and so not be opened: %w", err)
	}
	screen, err := s.Sandboxes.Terminal(ctx, o.Session, hand.Terminal{ID: id, Command: o.Command, Term: o.Term, Size: o.Size})
	if err != nil {
		return errors.Join(err, r.close(), os.Remove(r.path)) // nothing happened
	}
	defer screen.Close()
	s.Log.Info("an operator has opened a shell", "session", o.Session, "uid", who.UID, "pid", who.PID, "command", o.Command, "recording", r.path)
	began := time.Now()
	err = s.converse(serving, l, screen, r)
	err = errors.Join(err, r.close())
	s.Log.Info("an operator has left a shell", "session", o.Session, "uid", who.UID, "recording", r.path, "after", time.Since(began).Round(time.Second), "error", err)
	return err
}

// Why a shell ends that nobody has left.
var (
	errEnding = errors.New("the worker is ending, and its shells with it")
	errEnded  = errors.New("the session's sandbox has ended, and the shell with it; the worker's log may say why")
)

// converse carries what is typed and shown until the program has ended, the
// operator has gone, the recording fails, or ctx ends.
func (s *Server) converse(ctx context.Context, l line, screen *hand.Screen, r *recording) error {
	if err := l.out.Encode(message{Recording: r.path}); err != nil {
		return err
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		defer screen.Close() // the operator has gone
		for {
			var m message
			if l.in.Decode(&m) != nil {
				return
			}
			if r.typed(m) != nil {
				return
			}
			switch {
			case m.Size != nil:
				_ = screen.Resize(*m.Size) // of a program that has ended
			case len(m.Data) > 0:
				_ = screen.Type(m.Data)
			}
		}
	})
	var failed error
	for {
		piece, ok := screen.Shown()
		if !ok {
			break
		}
		if failed == nil {
			if failed = r.shown(piece); failed == nil {
				failed = l.out.Encode(message{Data: piece})
			}
			if failed != nil {
				screen.Close()
			}
		}
	}
	code, err := screen.Wait()
	switch {
	case ctx.Err() != nil:
		err = errEnding
	case errors.Is(err, hand.ErrGone):
		err = errEnded
	}
	if err = errors.Join(err, r.failed()); err == nil {
		r.ended(code)
		err = l.out.Encode(message{Exit: &code})
	} else {
		_ = l.out.Encode(message{Err: err.Error()}) // who is told may have gone
	}
	// Its reading ends with the connection.
	l.Close()
	listening.Wait()
	if err != nil {
		return nil // it has been said
	}
	return failed
}
