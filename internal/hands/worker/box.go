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
	engine sandbox.Engine
	spec   sandbox.Spec
	ctx    context.Context // of the activation: a sandbox outlives the call that had it made

	mu      sync.Mutex
	current *starting // guarded by mu
	closed  bool      // guarded by mu
}

// starting is a sandbox on its way.
type starting struct {
	ready chan struct{} // closed once made or err is set
	made  sandbox.Sandbox
	err   error
}

func newBox(ctx context.Context, engine sandbox.Engine, spec sandbox.Spec) *box {
	b := &box{engine: engine, spec: spec, ctx: ctx}
	b.current = b.start()
	return b
}

func (b *box) start() *starting {
	s := &starting{ready: make(chan struct{})}
	spec := b.spec
	go func() {
		defer close(s.ready)
		s.made, s.err = b.engine.Create(b.ctx, spec)
	}()
	return s
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
	b.spec.ID = newID()
	b.current = b.start()
	return nil
}

// call runs a call in the sandbox. Lost tells that the sandbox died under it.
func (b *box) call(ctx context.Context, call hand.Call) (result hand.Result, lost bool, err error) {
	s, err := b.get(ctx)
	if err != nil {
		return hand.Result{}, false, err
	}
	result, err = s.Call(ctx, call)
	if err == nil || ctx.Err() != nil {
		return result, false, err
	}
	return result, true, errors.Join(err, b.replace(s))
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
