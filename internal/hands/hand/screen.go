package hand

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Screen is the worker's side of a terminal. Its methods are safe for concurrent
// use.
type Screen struct {
	id     string
	client *Client
	shown  chan []byte
	done   chan struct{} // closed once the program has ended and said all

	mu   sync.Mutex
	over bool  // done and shown are closed; guarded by mu
	code int   // guarded by mu
	err  error // guarded by mu
}

// Terminal opens a terminal in the sandbox. It is closed when ctx ends.
func (c *Client) Terminal(ctx context.Context, t Terminal) (*Screen, error) {
	s := &Screen{id: t.ID, client: c, shown: make(chan []byte, 2*maxShownPieces), done: make(chan struct{})}
	c.mu.Lock()
	if c.screens == nil {
		c.mu.Unlock()
		return nil, ErrGone
	}
	if _, twice := c.screens[t.ID]; twice {
		c.mu.Unlock()
		return nil, fmt.Errorf("terminal %s is open already", t.ID)
	}
	c.screens[t.ID] = s
	c.mu.Unlock()
	if err := c.out.write(frame{Kind: frameTerminal, Terminal: &t}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	context.AfterFunc(ctx, s.Close)
	return s, nil
}

// Shown returns the next piece of what is shown; not ok after the last one.
func (s *Screen) Shown() (piece []byte, ok bool) {
	piece, ok = <-s.shown
	if ok {
		_ = s.say(screen{Took: true}) // a hand that is gone shows nothing more
	}
	return piece, ok
}

// Type types.
func (s *Screen) Type(data []byte) error {
	for len(data) > 0 {
		n := min(len(data), maxPiece)
		if err := s.say(screen{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// Resize tells the program of another size.
func (s *Screen) Resize(size Size) error { return s.say(screen{Size: &size}) }

func (s *Screen) say(what screen) error {
	return s.client.out.write(frame{Kind: frameScreen, ID: s.id, Screen: &what})
}

// Close ends what runs in the terminal; and a while later the terminal, whatever the hand
// says of it.
func (s *Screen) Close() {
	select {
	case <-s.done:
		return
	default:
	}
	go func() { _ = s.client.out.write(frame{Kind: frameCancel, ID: s.id}) }() // a hand that is gone runs nothing
	time.AfterFunc(grace, func() { s.end(-1, ErrGone) })
}

// Wait waits for the end of the program and returns its exit code. The error is
// about the terminal: it never began, or the sandbox is gone.
func (s *Screen) Wait() (code int, err error) {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.code, s.err
}

// take takes in what the hand says.
func (s *Screen) take(what screen) {
	if len(what.Data) > 0 && !s.show(what.Data) {
		s.end(-1, errors.New("the sandbox does not keep to the rules of a terminal"))
	}
	if what.Exit == nil {
		return
	}
	var err error
	if what.Err != "" {
		err = errors.New(what.Err)
	}
	s.end(*what.Exit, err)
}

// show keeps a piece until it is taken. More of them, or longer ones, than it was
// allowed come from a hand that is not to be trusted.
func (s *Screen) show(piece []byte) (allowed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return true
	}
	select {
	case s.shown <- piece:
		return len(piece) <= maxPiece
	default:
		return false
	}
}

// end ends it, once.
func (s *Screen) end(code int, err error) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over, s.code, s.err = true, code, err
	close(s.shown)
	close(s.done)
	s.mu.Unlock()
	s.client.mu.Lock()
	delete(s.client.screens, s.id)
	s.client.mu.Unlock()
}
