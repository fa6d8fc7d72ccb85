package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"hearth/api"
)

// guestOutputs is where a session leaves what is to become its files.
const guestOutputs = "/mnt/session/outputs"

// outputsName is the same, below Mnt.
const outputsName = "session/outputs"

// The limits of what is collected.
const (
	maxOutputs = 1000   // files
	maxVisited = 20_000 // files and directories looked at
	maxDeep    = 64     // segments of a name below Mnt; what is nested deeper is not taken
)

// output is a file that has been uploaded.
type output struct {
	FileID   string    `json:"file_id"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// outputsDir makes the directory that outputs are left in.
func (m *Mounter) outputsDir() error {
	if m.Mnt == "" {
		return nil
	}
	root, err := os.OpenRoot(m.Mnt)
	if err != nil {
		return err
	}
	defer root.Close()
	return m.mkdirs(root, outputsName)
}

// Collect uploads the outputs that are new or have changed since the last time,
// in place of what they were then. One that the session has removed stays a file
// of the session.
func (m *Mounter) Collect(ctx context.Context) error {
	if m.Mnt == "" {
		return nil
	}
	m.collecting.Lock()
	defer m.collecting.Unlock()
	root, err := os.OpenRoot(m.Mnt)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	changed, err := m.changed(root)
	for _, name := range changed {
		if e := m.upload(ctx, root, name); e != nil {
			err = errors.Join(err, fmt.Errorf("upload %s: %w", path.Join(guestOutputs, name), e))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

// changed lists the outputs that are not what was last uploaded.
func (m *Mounter) changed(root *os.Root) (names []string, err error) {
	visited, beyond, size := 0, 0, int64(0)
	look := func(name string, entry fs.DirEntry) error {
		if visited++; visited > maxVisited || len(names) == maxOutputs {
			return fmt.Errorf("%s holds too much; of each turn at most %d changed files are taken, and %d looked at", guestOutputs, maxOutputs, maxVisited)
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			return nil
		}
		name = strings.TrimPrefix(name, outputsName+"/")
		if before, ok := m.outputs[outputKey(name)]; !ok || before.Size != info.Size() || !before.Modified.Equal(info.ModTime()) {
			// By its length: one with holes, or several names, takes less here, and all of
			// it there.
			if m.Disk > 0 && info.Size() > m.Disk-size {
				beyond++
				return nil
			}
			size += info.Size()
			names = append(names, name)
		}
		return nil
	}
	err = walk(root, outputsName, maxDeep, func(error) error { return nil }, look)
	if beyond > 0 {
		err = errors.Join(err, fmt.Errorf("%d files in %s are not taken; of each turn at most %d bytes of changed files are, as many as the session may have on disk", beyond, guestOutputs, m.Disk))
	}
	return names, err
}

func (m *Mounter) upload(ctx context.Context, root *os.Root, name string) error {
	// Without waiting, for the sandbox may have put a pipe there meanwhile.
	f, err := root.OpenFile(path.Join(outputsName, name), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	if _, err := w.CreateFormFile("file", fileName(name)); err != nil {
		return err
	}
	head := form.Len()
	if err := w.Close(); err != nil {
		return err
	}
	p := m.progress("uploading an output", path.Join(guestOutputs, name), info.Size())
	body := io.MultiReader(bytes.NewReader(form.Bytes()[:head]), io.TeeReader(io.LimitReader(f, info.Size()), p), bytes.NewReader(form.Bytes()[head:]))
	var made api.File
	if err := m.Server.Upload(ctx, "/v1/files", w.FormDataContentType(), body, int64(form.Len())+info.Size(), &made); err != nil {
		return err
	}
	m.Log.Info("uploaded an output", "path", path.Join(guestOutputs, name), "file", made.ID, "size", info.Size())
	key := outputKey(name)
	before, replaced := m.outputs[key]
	m.outputs[key] = output{made.ID, info.Size(), info.ModTime()}
	if err := m.save(outputsFile, m.outputs); err != nil {
		return err
	}
	if replaced {
		if err := m.Server.Do(ctx, "DELETE", "/v1/files/"+url.PathEscape(before.FileID), nil, nil); err != nil {
			m.Log.Debug("could not remove an earlier version of an output", "file", before.FileID, "error", err)
		}
	}
	return nil
}

// outputKey is what an output is called in the list. JSON has no bytes that are not
// UTF-8, so a name with such is quoted; no other name begins with a slash.
func outputKey(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return "/" + strconv.QuoteToASCII(name)
}

// fileName makes the name of an output, which may be in a directory, that of a
// file, which is in none.
func fileName(name string) string {
	fit := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || strings.ContainsRune(api.NotInFileNames, r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_")))
	if len(fit) > api.MaxFileName {
		fit = fit[len(fit)-api.MaxFileName:] // the end tells what it is
	}
	return string(fit)
}
