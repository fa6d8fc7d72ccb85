package sandbox

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// gate lets few in at a time.
type gate struct {
	places chan struct{}
	// patience is how long one who does not leave keeps others from entering.
	patience time.Duration
}

func newGate(places int, patience time.Duration) gate {
	return gate{make(chan struct{}, places), patience}
}

// starting are the sandboxes that start. A start takes processor time more than
// anything else, so that many at once end later than few after few; and those of
// gVisor then need twice as much of it. What is restored may have been left so
// that its start never ends.
var starting = newGate(2*runtime.GOMAXPROCS(0), 10*time.Second)

// enter waits for a place. The caller leaves it once, or has it taken away.
func (g gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	free := sync.OnceFunc(func() { <-g.places })
	losing := time.AfterFunc(g.patience, free)
	return func() {
		losing.Stop()
		free()
	}, nil
}
