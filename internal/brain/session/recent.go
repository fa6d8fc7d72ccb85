package session

import (
	"container/list"
	"sync"
)

// recent remembers, decoded, the logs of the threads that thought last, so
// that a step reads only what has been logged since. An event that took effect
// never changes, so what is remembered is never wrong, only short.
type recent struct {
	mu    sync.Mutex
	logs  map[string]*list.Element // guarded by mu; values are *remembered
	order *list.List               // guarded by mu; the latest used first
	bytes int                      // guarded by mu; of all events remembered
}

// remembered is the beginning of a log.
type remembered struct {
	logID  string
	events []LogEvent
	bytes  int
}

// recentBytes bounds what is remembered, by the size of the events' JSON.
const recentBytes = 32 << 20

func newRecent() *recent { return &recent{logs: map[string]*list.Element{}, order: list.New()} }

// get returns the beginning of a log, as far as it is known. Appending to it
// copies it.
func (r *recent) get(logID string) []LogEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.logs[logID]
	if !ok {
		return nil
	}
	r.order.MoveToFront(e)
	events := e.Value.(*remembered).events
	return events[:len(events):len(events)]
}

// put remembers a log in place of what was known of it.
func (r *recent) put(logID string, events []LogEvent) {
	bytes := 0
	for _, e := range events {
		bytes += len(e.JSON) + len(e.Private)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.logs[logID]; ok {
		r.drop(e)
	}
	r.logs[logID] = r.order.PushFront(&remembered{logID, events, bytes})
	r.bytes += bytes
	for r.bytes > recentBytes {
		r.drop(r.order.Back())
	}
}

func (r *recent) drop(e *list.Element) {
	log := r.order.Remove(e).(*remembered)
	delete(r.logs, log.logID)
	r.bytes -= log.bytes
}
