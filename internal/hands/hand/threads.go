package hand

import (
	"runtime"
	"sync"
)

// spareThreads is more than a hand commonly has.
const spareThreads = 16

// reserveThreads makes the runtime create threads, which it keeps, for when there
// are none to be had: a control group's limit of processes counts threads too, and
// a program in Go that needs one and cannot make it ends.
func reserveThreads() {
	var begun, done sync.WaitGroup
	begun.Add(spareThreads)
	for range spareThreads {
		done.Go(func() {
			runtime.LockOSThread() // so each needs its own
			defer runtime.UnlockOSThread()
			begun.Done()
			begun.Wait()
		})
	}
	done.Wait()
}
