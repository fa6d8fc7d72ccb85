package shell

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"hearth/internal/hands/hand"
)

// List lists the sessions that have a sandbox with one of the workers on a state
// directory.
func List(stateDir string) (sessions []string, err error) {
	lines, err := dial(stateDir)
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
	return sessions, err
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
// ended, whose exit code it returns.
func (t Terminal) Run(stateDir string, o Open) (code int, err error) {
	l, first, err := find(stateDir, o)
	if err != nil {
		return 0, err
	}
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
func find(stateDir string, o Open) (line, message, error) {
	lines, err := dial(stateDir)
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
