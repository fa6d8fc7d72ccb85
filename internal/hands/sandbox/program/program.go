// Package program finds the files of the programs that engines have a sandbox
// start: this very program, or a smaller one that it holds. It owns the copies it
// may make in the directories it is given, and may call no package of ours.
package program

import (
	"bytes"
	"crypto/sha256"
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
	in, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer in.Close()
	return kept, write(kept, in)
}

// Unpack writes a program that this one holds to a file in dir, named after what it
// is, unless it is there already, and returns the file's absolute path. Workers of
// one directory may do so at once.
func Unpack(dir string, content []byte) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("hand-%x", sha256.Sum256(content)))
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) {
		return path, nil
	}
	return path, write(path, bytes.NewReader(content))
}

// write makes a program's file, whole or not at all.
func write(path string, from io.Reader) error {
	out, err := os.CreateTemp(filepath.Dir(path), ".program-")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	err = errors.Join(err, out.Chmod(0o755), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(out.Name()))
	}
	return nil
}
