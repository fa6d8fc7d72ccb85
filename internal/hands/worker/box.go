package worker

import (
	"context"
	"errors"
	"sync"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// box is the sandbox of an activation, which may still be starting, and which
// is replaced when it dies.
type box struct {
	*activation
	ctx context.Context // of the activation: a sandbox outlives the call that had it made

	mu      sync.Mutex
	spec    sandbox.Spec  // of the current one; guarded by mu
	current *starting     // guarded by mu
	closed  bool          // guarded by mu
	used    bool          // there is something in it that is worth keeping; guarded by mu
	guests  int           // terminals that are open in it; guarded by mu
	left    chan struct{} // told when the last of them has been closed
}

// starting is a sandbox on its way.
type starting struct {
	ready chan struct{} // closed once made or err is set
	made  sandbox.Sandbox
	err   error
}

func newBox(ctx context.Context, a *activation, spec sandbox.Spec) *box {
	b := &box{activation: a, spec: spec, ctx: ctx, current: &starting{ready: make(chan struct{})}, left: make(chan struct{}, 1)}
	go b.open(b.current, spec)
	return b
}

// open restores the session's sandbox or starts one.
func (b *box) open(s *starting, spec sandbox.Spec) {
	defer close(s.ready)
	restored, kept, err := b.unpark(b.ctx)
	if err != nil && b.ctx.Err() == nil {
		b.log.Warn("could not restore a session's sandbox; it gets a new one", "error", err)
	}
	if restored != nil {
		s.made = restored
		b.use()
		b.mu.Lock()
		b.spec = kept
		b.mu.Unlock()
		return
	}
	s.made, s.err = b.Engine.Create(b.ctx, spec)
}

// get waits for the sandbox.
func (b *box) get(ctx context.Context) (sandbox.Sandbox, error) {
	b.mu.Lock()
	s := b.current
	b.mu.Unlock()
	select {
	case <-s.ready:
		return s.made, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// replace starts another sandbox in place of one that has died, unless that
// has been done already.
func (b *box) replace(dead sandbox.Sandbox) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.current.made != dead {
		return nil
	}
	if err := dead.Destroy(context.WithoutCancel(b.ctx)); err != nil {
		return err
	}
	spec := b.activation.spec(b.spec.Limits)
	spec.Held = true // for what is mounted
	b.spec, b.current = spec, &starting{ready: make(chan struct{})}
	go func(s *starting) {
		defer close(s.ready)
		s.made, s.err = b.Engine.Create(b.ctx, spec)
	}(b.current)
	return nil
}

// limits are those of the session's sandboxes.
func (b *box) limits() sandbox.Limits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spec.Limits
}

// call runs a call in the sandbox. Lost tells that the sandbox died under it.
func (b *box) call(ctx context.Context, call hand.Call) (result hand.Result, lost bool, err error) {
	s, err := b.get(ctx)
	if err != nil {
		return hand.Result{}, false, err
	}
	b.use()
	result, err = s.Call(ctx, call)
	if err == nil || ctx.Err() != nil {
		return result, false, err
	}
	return result, true, errors.Join(err, b.replace(s))
}

// terminal opens a terminal in the sandbox, which is not left while it is open.
func (b *box) terminal(ctx context.Context, t hand.Terminal) (*hand.Screen, error) {
	s, err := b.get(ctx)
	if err != nil {
		return nil, err
	}
	b.use()
	b.mu.Lock()
	b.guests++
	b.mu.Unlock()
	leave := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.guests--; b.guests == 0 {
			select {
			case b.left <- struct{}{}:
			default:
			}
		}
	}
	screen, err := s.Terminal(ctx, t)
	if err != nil {
		leave()
		return nil, err
	}
	go func() {
		_, _ = screen.Wait() // whoever has it asks too
		leave()
	}()
	return screen, nil
}

// attended tells whether somebody has a terminal open.
func (b *box) attended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.guests > 0
}

// use notes that there is going to be something in the sandbox.
func (b *box) use() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.used {
		b.noteChanges()
	}
	b.used = true
}

// park puts the sandbox on disk, unless there is nothing in it, or it cannot be.
func (b *box) park(ctx context.Context) error {
	b.mu.Lock()
	s, spec, worthIt := b.current, b.spec, b.used && !b.closed
	b.mu.Unlock()
	<-s.ready
	made, ok := s.made.(sandbox.Checkpointer)
	if !worthIt || !ok {
		return nil
	}
	select {
	case <-made.Done():
		return nil // it has died
	default:
	}
	return b.activation.park(ctx, made, spec)
}

// close destroys the sandbox.
func (b *box) close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	s := b.current
	b.mu.Unlock()
	<-s.ready
	if s.made == nil {
		return nil // it never came to be, and its engine has cleared up
	}
	return s.made.Destroy(ctx)
}
