package hand

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// maxFrame bounds a frame in bytes, so that neither side can be made to hold more;
// and maxAnswer what a worker takes of a hand, which is not to be trusted: some more
// than the longest result, of maxShown characters, each of which takes six bytes at most.
const (
	maxFrame  = 48 << 20
	maxAnswer = 1 << 20
)

// The kinds of frame.
const (
	frameReady  = "ready"  // hand: calls may begin
	frameHello  = "hello"  // worker: are you ready?
	frameCall   = "call"   // worker: run this
	frameCancel = "cancel" // worker: stop the call with this id
	frameResult = "result" // hand: what a call answered

	frameTerminal = "terminal" // worker: open this; frameCancel closes it
	frameScreen   = "screen"   // either: what happens on the terminal with this id
)

// frame is one message: four bytes of length, most significant first, then JSON.
type frame struct {
	Kind   string  `json:"kind"`
	ID     string  `json:"id,omitempty"`
	Call   *Call   `json:"call,omitempty"`
	Result *Result `json:"result,omitempty"`

	Terminal *Terminal `json:"terminal,omitempty"`
	Screen   *screen   `json:"screen,omitempty"`
}

// readFrame reads a frame of at most so many bytes.
func readFrame(r io.Reader, most uint32) (frame, error) {
	var f frame
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > most {
		return f, fmt.Errorf("a frame of %d bytes is longer than the %d allowed", size, most)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return f, fmt.Errorf("read a frame: %w", err)
	}
	if err := json.Unmarshal(body, &f); err != nil {
		return f, fmt.Errorf("decode a frame: %w", err)
	}
	return f, nil
}

// frameWriter writes whole frames from any goroutine.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (w *frameWriter) write(f frame) error {
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("a frame of %d bytes is longer than the %d allowed", len(body), maxFrame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...))
	return err
}
