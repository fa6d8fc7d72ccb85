package mount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/hands/sandbox"
)

// tree is the directory of a memory store. All in it is the sandbox's to change at
// any time: no link in it leads out of root, none is followed to a file, and what
// is no regular file is nothing.
type tree struct {
	*Mounter
	root     *os.Root
	readOnly bool // what is put there stays the worker's own
}

// passing begins the name of a file that is on its way into its place.
const passing = ".hearth-passing-"

// maxEntries bounds how many files and directories of a store are looked at.
const maxEntries = 20_000

// openTree opens the directory at a path of the sandbox, and makes it if that is
// wanted and it is not there.
func (m *Mounter) openTree(guest string, readOnly, create bool) (*tree, error) {
	at, err := m.open(guest)
	if create && err == nil {
		at.root.Close()
		at, err = m.make(guest)
	}
	if err != nil {
		return nil, err
	}
	defer at.root.Close()
	t := &tree{Mounter: m, readOnly: readOnly}
	if create {
		err := at.root.Mkdir(at.name, 0o755)
		if err == nil {
			err = t.own(at.root, at.name)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make %s: %w", guest, err)
		}
	}
	if info, err := at.root.Lstat(at.name); err != nil || !info.IsDir() {
		return nil, errors.Join(err, fmt.Errorf("there is no directory at %s", guest))
	}
	t.root, err = at.root.OpenRoot(at.name)
	return t, err
}

func (t *tree) close() { _ = t.root.Close() } // nothing was written through it

// own makes what has been put in the tree the sandbox's, if it may change it.
func (t *tree) own(root *os.Root, name string) error {
	uid, gid, ok := t.user()
	if !ok || t.readOnly {
		return nil
	}
	return root.Lchown(name, uid, gid)
}

// scan is what is in a tree.
type scan struct {
	files map[string]string // SHA-256 by path
	// trusted tells that the marker is there: it is the store's directory, and
	// what is missing from it has been removed.
	trusted bool
	// unfit is what is there and cannot be a memory: links, files that are too
	// large or no text, names that are none.
	unfit map[string]bool
}

func (t *tree) scan(storeID string) (scan, error) {
	s := scan{files: map[string]string{}, unfit: map[string]bool{}}
	entries := 0
	err := t.walk(".", func(name string, entry fs.DirEntry) error {
		if entries++; entries > maxEntries {
			return fmt.Errorf("holds more than %d files and directories", maxEntries)
		}
		if strings.HasPrefix(path.Base(name), passing) {
			return nil
		}
		raw, err := t.read(name, entry.Type())
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			s.unfit[name] = true
		case name == api.MemoryMarker:
			s.trusted = string(raw) == marker(storeID)
		default:
			s.files[name] = sum(raw)
		}
		return nil
	})
	return s, err
}

// walk visits what is in the tree, and goes no deeper than a memory can be. All of it
// must be there to be seen, for what is not seen counts as removed.
func (t *tree) walk(dir string, visit func(name string, entry fs.DirEntry) error) error {
	return walk(t.root, dir, api.MaxMemorySegments, func(err error) error { return err }, visit)
}

// errNoMemory is of what is in a tree and cannot be a memory.
var errNoMemory = errors.New("is no text file that a memory could be")

// read reads a file that could be a memory. What is a directory is not there.
func (t *tree) read(name string, kind fs.FileMode) ([]byte, error) {
	switch {
	case kind.IsDir():
		return nil, fs.ErrNotExist
	case !kind.IsRegular(), !utf8.ValidString(name), len(name) >= api.MaxMemoryPath:
		return nil, errNoMemory
	}
	// Without waiting, for the sandbox may have put a pipe there meanwhile.
	f, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > api.MaxMemoryContent {
		return nil, errNoMemory
	}
	raw, err := io.ReadAll(io.LimitReader(f, api.MaxMemoryContent+1))
	if err == nil && (len(raw) > api.MaxMemoryContent || !utf8.Valid(raw)) {
		err = errNoMemory
	}
	return raw, err
}

// clear removes all that is in the tree.
func (t *tree) clear(ctx context.Context) error {
	d, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return sandbox.Empty(ctx, d)
}

// now is the SHA-256 of a file as it is, "" if there is none.
func (t *tree) now(name string) (string, error) {
	info, err := t.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	raw, err := t.read(name, info.Mode().Type())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return sum(raw), err
}

// put writes a file whole, or not at all.
func (t *tree) put(name, content string) error {
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("%.200q is not a path to mount at", name)
	}
	if err := t.mkdirs(t.root, path.Dir(name)); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if t.readOnly {
		mode = 0o444
	}
	coming := path.Join(path.Dir(name), passing+sum([]byte(name))[:16]) // several are written at once
	_ = t.root.Remove(coming)                                           // of a worker that was killed
	out, err := t.root.OpenFile(coming, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, content)
	if err = errors.Join(err, out.Chmod(mode), out.Close()); err == nil { // whatever the umask
		err = t.own(t.root, coming)
	}
	if err == nil {
		err = t.root.Rename(coming, name)
	}
	if err != nil {
		_ = t.root.Remove(coming) // what there is of it
	}
	return err
}

// mkdirs makes directories as those of the tree are.
func (t *tree) mkdirs(root *os.Root, dir string) error {
	if !t.readOnly {
		return t.Mounter.mkdirs(root, dir)
	}
	return root.MkdirAll(dir, 0o755)
}

// remove removes a file, and the directories that are empty without it.
func (t *tree) remove(name string) error {
	err := t.root.Remove(name)
	for dir := path.Dir(name); err == nil && dir != "."; dir = path.Dir(dir) {
		if t.root.Remove(dir) != nil {
			break // there is more in it
		}
	}
	return err
}

// marker is what the marker of a store holds, as all workers have it.
func marker(storeID string) string { return "version 1\n" + storeID }

func sum(raw []byte) string {
	digest := sha256.Sum256(raw)
	return hex.EncodeToString(digest[:])
}
