// Package program finds the file of this very program, for engines that have a
// sandbox start it. It owns the copy it may make of it in the directory it is
// given, and may call no package of ours.
package program

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// self is the file this process runs, whatever has become of its name.
const self = "/proc/self/exe"

// File is a program's file.
type File struct {
	given string
	dir   string // for a copy
	// copying is held while a copy is made.
	copying sync.Mutex
}

// New is the given file, or that of this program when it is "". Dir is where a
// copy is made should one be needed.
func New(given, dir string) *File { return &File{given: given, dir: dir} }

// Static tells why the program is not statically linked, as it has to be where it
// is started without the libraries of the host.
func (f *File) Static() error {
	path := f.given
	if path == "" {
		path = self
	}
	program, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("look at this program: %w", err)
	}
	defer program.Close()
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return errors.New("this program is linked with C libraries; build it without: CGO_ENABLED=0 go build ./cmd/hearth")
		}
	}
	return nil
}

// Path is where the file is. When it has been replaced or removed, as an upgrade
// does under a running worker, it is a copy of what runs.
func (f *File) Path() (string, error) {
	if f.given != "" {
		return f.given, nil
	}
	running, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	path, err := os.Readlink(self)
	if err != nil {
		return "", err
	}
	if there, err := os.Stat(path); err == nil && os.SameFile(there, running) {
		return path, nil
	}
	f.copying.Lock()
	defer f.copying.Unlock()
	kept := filepath.Join(f.dir, fmt.Sprintf("program-%d-%d", running.ModTime().UnixNano(), running.Size()))
	if _, err := os.Stat(kept); err == nil {
		return kept, nil
	}
	return kept, copyFile(self, kept)
}

// copyFile copies a program, whole or not at all.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(out.Close(), os.Rename(to+".new", to))
}
