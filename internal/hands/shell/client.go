package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"hearth/internal/hands/hand"
)

// listTimeout bounds how long a worker may take to say what sandboxes it has.
const listTimeout = 10 * time.Second

// List lists the sessions that have a sandbox with one of the workers on a state
// directory.
func List(ctx context.Context, stateDir string) (sessions []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listTimeout, errors.New("a worker does not answer"))
	defer cancel()
	lines, err := dial(ctx, stateDir)
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	for _, l := range lines {
		var m message
		e := l.out.Encode(message{List: true})
		if e == nil {
			e = l.in.Decode(&m)
		}
		sessions, err = append(sessions, m.Sessions...), errors.Join(err, e, l.Close())
	}
	slices.Sort(sessions)
	return sessions, because(ctx, err)
}

// because is an error, or why ctx ended if that came of it.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Terminal is what an operator sits at.
type Terminal struct {
	// In is what is typed; its end hangs up nothing, but is told to the program.
	In io.Reader
	// Out is where it is shown.
	Out io.Writer
	// Sizes brings the terminal's size whenever it changes; nil for never.
	Sizes <-chan hand.Size
	// Began is called once the terminal is open, with where it is recorded.
	Began func(recording string)
}

// endOfInput is what a terminal takes for the end of input, at the start of a line.
const endOfInput = 4

// Run opens a terminal in a session's sandbox and carries it until its program has
// ended, whose exit code it returns, or until ctx ends, which hangs up.
func (t Terminal) Run(ctx context.Context, stateDir string, o Open) (code int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, first, err := find(ctx, stateDir, o)
	if err != nil {
		return 0, because(ctx, err)
	}
	code, err = t.carry(l, first)
	return code, because(ctx, err)
}

// carry passes on what is typed and shown.
func (t Terminal) carry(l line, first message) (code int, err error) {
	defer l.Close()
	if t.Began != nil {
		t.Began(first.Recording)
	}
	typed := make(chan message)
	ended := make(chan struct{})
	defer close(ended)
	go t.read(typed, ended)
	go func() {
		for {
			select {
			case m := <-typed:
				_ = l.out.Encode(m) // reading will say that it is gone
			case size := <-t.Sizes:
				_ = l.out.Encode(message{Size: &size})
			case <-ended:
				return
			}
		}
	}()
	for {
		var m message
		if err := l.in.Decode(&m); err != nil {
			return 0, fmt.Errorf("the worker has gone: %w", err)
		}
		switch {
		case m.Exit != nil:
			return *m.Exit, nil
		case m.Err != "":
			return 0, errors.New(m.Err)
		}
		if _, err := t.Out.Write(m.Data); err != nil {
			return 0, err
		}
	}
}

// find opens the terminal with whichever worker has the session.
func find(ctx context.Context, stateDir string, o Open) (line, message, error) {
	lines, err := dial(ctx, stateDir)
	if err != nil {
		return line{}, message{}, err
	}
	var found *line
	var answer message
	for i, l := range lines {
		if found == nil {
			var m message
			e := l.out.Encode(message{Open: &o})
			if e == nil {
				e = l.in.Decode(&m)
			}
			if e == nil && m.Err == "" {
				found, answer = &lines[i], m
				continue
			}
			if e == nil && !m.Unknown {
				e = errors.New(m.Err)
			}
			err = errors.Join(err, e)
		}
		l.Close()
	}
	switch {
	case found != nil:
		return *found, answer, nil
	case err != nil:
		return line{}, answer, err
	}
	return line{}, answer, ErrUnknown
}

func (t Terminal) read(typed chan<- message, ended <-chan struct{}) {
	for {
		buffer := make([]byte, 4<<10)
		n, err := t.In.Read(buffer)
		if err != nil {
			buffer, n = []byte{endOfInput}, 1
		}
		if n > 0 {
			select {
			case typed <- message{Data: buffer[:n]}:
			case <-ended:
				return
			}
		}
		if err != nil {
			return
		}
	}
}
