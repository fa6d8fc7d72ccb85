package db

import "sync"

// notice is one notification.
type notice struct{ topic, payload string }

// hub hands notifications to the subscribers of this process.
type hub struct {
	mu   sync.Mutex
	subs map[string]map[chan string]struct{} // by topic; guarded by mu
}

// backlog is how many payloads a subscriber may lag behind.
const backlog = 8

func newHub() *hub { return &hub{subs: map[string]map[chan string]struct{}{}} }

func (h *hub) subscribe(topic string) (<-chan string, func()) {
	ch := make(chan string, backlog)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[topic] == nil {
		h.subs[topic] = map[chan string]struct{}{}
	}
	h.subs[topic][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs[topic], ch)
		if len(h.subs[topic]) == 0 {
			delete(h.subs, topic)
		}
	}
}

func (h *hub) deliver(n notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subs[n.topic] {
		offer(ch, n.payload)
	}
}

// wakeAll tells every subscriber to look for itself.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, subs := range h.subs {
		for ch := range subs {
			offer(ch, "")
		}
	}
}

// offer never blocks: a full channel loses its oldest payloads and gains an
// empty one, so that its reader knows.
func offer(ch chan string, payload string) {
	select {
	case ch <- payload:
		return
	default:
	}
	for range 2 {
		select {
		case <-ch:
		default:
		}
	}
	for _, p := range []string{"", payload} {
		select {
		case ch <- p:
		default:
		}
	}
}
