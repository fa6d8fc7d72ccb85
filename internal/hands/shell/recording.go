package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// recording is a file in the asciicast format, version 2, that asciinema plays.
// Every line is on its way to the disk before what it tells of happens.
type recording struct {
	path  string
	began time.Time

	mu   sync.Mutex
	file *os.File // guarded by mu
	err  error    // the first; guarded by mu
	rest []byte   // the beginning of a character that was shown in part; guarded by mu
}

var unsafeName = regexp.MustCompile(`[^A-Za-z0-9_-]`)

func newRecording(dir, id string, who operator, o Open) (*recording, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	now := time.Now()
	name := fmt.Sprintf("%s-%s-%s.cast", now.UTC().Format("20060102T150405"), unsafeName.ReplaceAllString(o.Session, "_"), id)
	r := &recording{path: filepath.Join(dir, name), began: now}
	var err error
	if r.file, err = os.OpenFile(r.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	r.line(map[string]any{
		"version": 2, "width": o.Size.Columns, "height": o.Size.Rows, "timestamp": now.Unix(), "title": "session " + o.Session,
		"command": strings.Join(o.Command, " "), "env": map[string]string{"TERM": o.Term}, "session": o.Session, "operator": who,
	})
	if err := r.failed(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// line writes a line. The caller holds mu, or is alone.
func (r *recording) line(v any) {
	if r.err != nil {
		return
	}
	raw, err := json.Marshal(v)
	if err == nil {
		_, err = r.file.Write(append(raw, '\n'))
	}
	r.err = err
}

// event writes that something happened.
func (r *recording) event(code, text string) error {
	r.line([]any{time.Since(r.began).Seconds(), code, text})
	return r.err
}

// typed records what came from the operator. What is typed without being shown, a
// password too, is in it: what was done is to be known.
func (r *recording) typed(m message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case m.Size != nil:
		return r.event("r", fmt.Sprintf("%dx%d", m.Size.Columns, m.Size.Rows))
	case len(m.Data) > 0:
		return r.event("i", strings.ToValidUTF8(string(m.Data), "\uFFFD"))
	}
	return r.err
}

// shown records what was shown. A character that comes in two pieces is one.
func (r *recording) shown(piece []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(r.rest, piece...)
	whole := len(all)
	for n := 1; n < utf8.UTFMax && n <= len(all); n++ {
		if b := all[len(all)-n]; utf8.RuneStart(b) {
			if !utf8.FullRune(all[len(all)-n:]) {
				whole = len(all) - n
			}
			break
		}
	}
	r.rest = append([]byte(nil), all[whole:]...)
	if whole == 0 {
		return r.err
	}
	return r.event("o", strings.ToValidUTF8(string(all[:whole]), "\uFFFD"))
}

// ended records how the program ended.
func (r *recording) ended(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.event("m", fmt.Sprintf("exit %d", code)) // close tells
}

// failed tells why the recording cannot go on.
func (r *recording) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return fmt.Errorf("the recording cannot go on: %w", r.err)
	}
	return nil
}

func (r *recording) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := errors.Join(r.err, r.file.Sync(), r.file.Close())
	if r.err == nil {
		r.err = os.ErrClosed
	}
	return err
}
