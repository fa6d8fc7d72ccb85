package hand

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

// framed is a body with its length before it.
func framed(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func seedFrames(f *testing.F) {
	for _, body := range []string{
		`{"kind":"ready"}`, `{"kind":"cancel","id":"1"}`, `{"kind":"call","call":{"id":"1","tool":"bash","input":{"command":"true"},"timeout":5}}`,
		`{"kind":"result","result":{"id":"1","is_error":true,"text":"\u00e9"}}`, `{"kind":"result"}`, `{"kind":"call","call":null}`,
		`{}`, `null`, `[]`, `{"kind":7}`, `{"kind":"ready"`, ``, "\xff\x00",
	} {
		f.Add(framed(body))
		f.Add(append(framed(`{"kind":"ready"}`), framed(body)...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 9, '{'})
}

// What can be read can be written and read again.
func FuzzReadFrame(f *testing.F) {
	seedFrames(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		got, err := readFrame(r, maxFrame)
		if err != nil {
			return
		}
		var out bytes.Buffer
		w := frameWriter{w: &out}
		if err := w.write(got); err != nil {
			t.Fatalf("write %+v: %v", got, err)
		}
		again, err := readFrame(&out, maxFrame)
		if err != nil {
			t.Fatalf("read %+v again: %v", got, err)
		}
		// Only a call's input, kept as it came, may be written another way.
		for _, f := range []*frame{&got, &again} {
			if f.Call == nil {
				continue
			}
			var input any
			if err := json.Unmarshal(append(f.Call.Input, ' '), &input); err != nil && f.Call.Input != nil {
				t.Fatal(err)
			}
			if f.Call.Input, _ = json.Marshal(input); input == nil {
				f.Call.Input = nil
			}
		}
		if !reflect.DeepEqual(got, again) {
			t.Errorf("read %+v, then %+v", got, again)
		}
	})
}

// A hand may be anything that got hold of the sandbox: whatever it says, its
// client neither panics nor waits for ever.
func FuzzClient(f *testing.F) {
	seedFrames(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Connect(t.Context(), bytes.NewReader(data), io.Discard)
		if err != nil {
			if !errors.Is(err, ErrGone) {
				t.Errorf("not ready: %v", err)
			}
			return
		}
		_, err = c.Call(t.Context(), Call{ID: "1", Tool: "bash"})
		if err != nil && !errors.Is(err, ErrGone) {
			t.Errorf("call: %v", err)
		}
		<-c.Done()
	})
}

// trackedReader tells how far it was read.
type trackedReader struct {
	io.Reader
	n int
}

func (r *trackedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += n
	return n, err
}

func TestFrameTooLong(t *testing.T) {
	r := &trackedReader{Reader: io.MultiReader(bytes.NewReader([]byte{0x7f, 0xff, 0xff, 0xff}), strings.NewReader(strings.Repeat("x", 1000)))}
	if _, err := readFrame(r, maxFrame); err == nil || r.n != 4 {
		t.Errorf("a frame longer than allowed: %v after %d bytes", err, r.n)
	}
	var out bytes.Buffer
	w := frameWriter{w: &out}
	if err := w.write(frame{Kind: strings.Repeat("x", maxFrame)}); err == nil || out.Len() > 0 {
		t.Errorf("writing one: %v after %d bytes", err, out.Len())
	}
}

// TestLongestAnswer: what a hand may say is bounded by what results can be.
func TestLongestAnswer(t *testing.T) {
	result := func(text string) frame {
		return frame{Kind: frameResult, Result: &Result{ID: strings.Repeat("i", 100), Text: text}}
	}
	for _, c := range []struct {
		text string
		ok   bool
	}{{strings.Repeat("\x01", maxShown), true}, {strings.Repeat("\u2028", maxShown), true}, {strings.Repeat("\U0001F600", maxShown), true}, {strings.Repeat("x", 2<<20), false}} {
		fromHand, says := io.Pipe()
		hears, toHand := io.Pipe()
		w := frameWriter{w: says}
		go func() {
			defer says.Close()
			_ = w.write(frame{Kind: frameReady})
			_, _ = readFrame(hears, maxFrame)
			_ = w.write(result(c.text)) // a client that has gone takes none
			_, _ = io.Copy(io.Discard, hears)
		}()
		client, err := Connect(t.Context(), fromHand, toHand)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Call(t.Context(), Call{ID: strings.Repeat("i", 100), Tool: "bash"})
		fromHand.Close()
		hears.Close()
		if (err == nil && answer.Text == c.text) != c.ok {
			t.Errorf("of %d bytes: %d bytes, %v", len(c.text), len(answer.Text), err)
		}
	}
}

// A worker that ends in the middle of what it says ends its hand, whose first
// word is always that it is ready.
func TestServeBrokenStream(t *testing.T) {
	for name, stream := range map[string][]byte{
		"nothing":        nil,
		"half a length":  {0, 0},
		"half a frame":   framed(`{"kind":"cancel","id":"x"}`)[:12],
		"not JSON":       framed("kind"),
		"too long":       {0xff, 0, 0, 0},
		"unknown kind":   framed(`{"kind":"what"}`),
		"call of none":   framed(`{"kind":"call"}`),
		"cancel of none": framed(`{"kind":"cancel","id":"never"}`),
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Serve(context.Background(), bytes.NewReader(stream), &out, Config{Workdir: t.TempDir()})
			broken := name == "half a length" || name == "half a frame" || name == "not JSON" || name == "too long"
			if (err != nil) != broken {
				t.Errorf("serve: %v", err)
			}
			if first, err := readFrame(&out, maxFrame); err != nil || first.Kind != frameReady {
				t.Errorf("first it said %+v, %v", first, err)
			}
			if out.Len() > 0 {
				t.Errorf("and then %q", out.Bytes())
			}
		})
	}
}
