package hand

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrGone is returned by calls on a hand that has ended or is unreachable.
var ErrGone = errors.New("the sandbox's hand is gone")

// Client calls a hand at the other end of a stream. Its methods are safe for
// concurrent use.
type Client struct {
	out  frameWriter
	done chan struct{} // closed when the hand is gone

	mu      sync.Mutex
	waiting map[string]chan Result // calls in flight, by id; guarded by mu; nil when the hand is gone
	screens map[string]*Screen     // terminals, by id; guarded by mu; nil when the hand is gone
}

// Connect waits until the hand at the other end is ready. It ends when r does.
func Connect(ctx context.Context, r io.Reader, w io.Writer) (*Client, error) {
	return connect(ctx, r, w, false)
}

func connect(ctx context.Context, r io.Reader, w io.Writer, again bool) (*Client, error) {
	c := &Client{out: frameWriter{w: w}, done: make(chan struct{}), waiting: map[string]chan Result{}, screens: map[string]*Screen{}}
	ready := make(chan error, 1)
	go c.read(r, ready, again)
	select {
	case err := <-ready:
		return c, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Reconnect is Connect for a hand that has been ready before, at the other end of
// streams that are gone.
func Reconnect(ctx context.Context, r io.Reader, w io.Writer) (*Client, error) {
	hello := frameWriter{w: w}
	if err := hello.write(frame{Kind: frameHello}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return connect(ctx, r, w, true)
}

func (c *Client) read(r io.Reader, ready chan<- error, again bool) {
	defer c.gone()
	f, err := readFrame(r, maxAnswer)
	for again && err == nil && (f.Kind == frameResult || f.Kind == frameScreen) {
		f, err = readFrame(r, maxAnswer) // what was on its way to who is gone
	}
	if err == nil && f.Kind != frameReady {
		err = fmt.Errorf("the hand began with %q", f.Kind)
	}
	if err != nil {
		ready <- fmt.Errorf("%w: it never became ready: %w", ErrGone, err)
		return
	}
	ready <- nil
	for {
		f, err := readFrame(r, maxAnswer)
		if err != nil {
			return
		}
		switch {
		case f.Kind == frameResult && f.Result != nil:
			c.deliver(*f.Result)
		case f.Kind == frameScreen && f.Screen != nil:
			c.mu.Lock()
			s := c.screens[f.ID]
			c.mu.Unlock()
			if s != nil {
				s.take(*f.Screen)
			}
		}
	}
}

func (c *Client) deliver(r Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[r.ID]; ok {
		answer <- r // buffered, and there is one result per call
		delete(c.waiting, r.ID)
	}
}

func (c *Client) gone() {
	c.mu.Lock()
	screens := c.screens
	c.waiting, c.screens = nil, nil
	c.mu.Unlock()
	for _, s := range screens {
		s.end(-1, ErrGone)
	}
	close(c.done)
}

// Done is closed when the hand is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// grace is how much longer than a call may take its answer is waited for: a hand
// keeps to the time itself, unless what runs beside it has stopped it.
const grace = time.Minute

// cancelTime is how long a hand may take to stop a call.
const cancelTime = 5 * time.Second

// Call runs one tool call. The error is about the hand, never about the tool.
// When ctx ends the tool is stopped, and Call returns without its result. A hand
// that does not answer is as one that is gone; whoever has started it ends it.
func (c *Client) Call(ctx context.Context, call Call) (Result, error) {
	answer := make(chan Result, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return Result{}, ErrGone
	}
	if _, twice := c.waiting[call.ID]; twice {
		c.mu.Unlock()
		return Result{}, fmt.Errorf("call %s is in flight already", call.ID)
	}
	c.waiting[call.ID] = answer
	c.mu.Unlock()
	// A hand that does not read must not hold the caller.
	sent := make(chan error, 1)
	go func() { sent <- c.out.write(frame{Kind: frameCall, Call: &call}) }()
	patience := time.NewTimer(cmp.Or(call.Timeout, DefaultTimeout) + grace)
	defer patience.Stop()
	for {
		select {
		case err := <-sent:
			if err != nil {
				c.forget(call.ID)
				return Result{}, fmt.Errorf("%w: %w", ErrGone, err)
			}
			sent = nil
		case r := <-answer:
			return r, nil
		case <-c.done:
			select { // the result may have been the last thing it said
			case r := <-answer:
				return r, nil
			default:
				return Result{}, ErrGone
			}
		case <-ctx.Done():
			c.cancel(call.ID, sent, answer)
			c.forget(call.ID)
			return Result{}, ctx.Err()
		case <-patience.C:
			c.forget(call.ID)
			return Result{}, fmt.Errorf("%w: it does not answer", ErrGone)
		}
	}
}

// cancel has the hand stop a call once that has been sent, if it still is to be,
// and waits until it has, but not for long.
func (c *Client) cancel(id string, sent <-chan error, answer <-chan Result) {
	go func() {
		if sent != nil && <-sent != nil {
			return // a hand that is gone runs nothing
		}
		_ = c.out.write(frame{Kind: frameCancel, ID: id}) // nor does this one then
	}()
	patience := time.NewTimer(cancelTime)
	defer patience.Stop()
	select {
	case <-answer:
	case <-c.done:
	case <-patience.C:
	}
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}
