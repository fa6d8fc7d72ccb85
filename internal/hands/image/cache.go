package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What the cache has of an image, by what follows the digest in a file's name.
const (
	imageExt   = ".erofs" // the file system
	entryExt   = ".json"  // what is known of it, written last and removed first
	lockExt    = ".lock"
	passingExt = ".new" // the file system while it is being written
)

// How the names begin of what is in the cache while something is being made.
const (
	entryPrefix  = "entry-"
	layoutPrefix = "layout-"
)

func (s *Store) path(hex, ext string) string { return filepath.Join(s.dir, hex+ext) }

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// lock takes an image's lock, or returns ErrBusy: shared for those who use it,
// exclusive for who makes or removes it. Nobody waits for the exclusive one: who
// wanted to make what has just been made would wait for its users. The lock's file
// stays, or two could hold what seems the same.
func (s *Store) lock(hex string, how int) (*os.File, error) {
	f, err := os.OpenFile(s.path(hex, lockExt), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return flocked(f, how|unix.LOCK_NB)
}

// flocked locks a file, which it closes if it cannot.
func flocked(f *os.File, how int) (*os.File, error) {
	err := unix.Flock(int(f.Fd()), how)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrBusy
	}
	return nil, err
}

// change takes the lock without which no entry is written or removed, of whatever
// image. Who needs an image's lock as well has taken it before, and nobody keeps
// this one for longer than such a file takes, so it is waited for.
func (s *Store) change() (*os.File, error) {
	f, err := os.OpenFile(s.path("entries", lockExt), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return flocked(f, unix.LOCK_EX)
}

// entry is what is known of an image.
func (s *Store) entry(hex string) (e Entry, err error) {
	path := s.path(hex, entryExt)
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil {
		return e, err
	}
	info, err := os.Stat(path)
	if err == nil {
		e.Used = info.ModTime()
	}
	return e, err
}

// whole is the entry of an image whose file system is there too.
func (s *Store) whole(hex string) (e Entry, err error) {
	if e, err = s.entry(hex); err == nil {
		_, err = os.Stat(s.path(hex, imageExt))
	}
	return e, err
}

// write writes an entry. Whoever does holds the lock of change.
func (s *Store) write(hex string, e Entry) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, entryPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Close())
	if !e.Used.IsZero() { // nor does it count as used now
		err = errors.Join(err, os.Chtimes(f.Name(), e.Used, e.Used))
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path(hex, entryExt))
	}
	return err
}

// name notes that ref stands for this image, and no longer for another. Entries
// are read again for that: others who use this image may give it names too, and
// the other image may be removed, as long as nobody holds the lock of change.
func (s *Store) name(i *Image, ref string) error {
	if slices.Contains(i.Refs, ref) {
		return nil
	}
	changing, err := s.change()
	if err != nil {
		return err
	}
	defer changing.Close()
	entries, err := s.entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case e.Digest == i.Digest && !slices.Contains(e.Refs, ref):
			e.Refs = append(e.Refs, ref)
			i.Refs = e.Refs
		case e.Digest != i.Digest && slices.Contains(e.Refs, ref):
			e.Refs = slices.DeleteFunc(e.Refs, func(r string) bool { return r == ref })
		default:
			continue
		}
		if err := s.write(hexOf(e.Digest), e); err != nil {
			return err
		}
	}
	return nil
}

// byRef is the image that a name stood for when it was last asked for; "" for
// none.
func (s *Store) byRef(ref string) string {
	entries, err := s.entries()
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if slices.Contains(e.Refs, ref) {
			return hexOf(e.Digest)
		}
	}
	return ""
}

// List lists what is in the cache, last used first.
func (s *Store) List() ([]Entry, error) {
	entries, err := s.entries()
	for i, e := range entries {
		if lock, err := s.lock(hexOf(e.Digest), unix.LOCK_EX); err == nil {
			lock.Close()
		} else {
			entries[i].Busy = true
		}
	}
	return entries, err
}

// entries are what is in the cache, last used first, without a look at who uses
// it.
func (s *Store) entries() ([]Entry, error) {
	names, err := s.files()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, name := range names {
		hex, is := strings.CutSuffix(name, entryExt)
		if !is {
			continue
		}
		e, err := s.entry(hex)
		if err != nil {
			continue // it has just been removed
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return b.Used.Compare(a.Used) })
	return entries, nil
}

// files are the names of all that is in the cache's directory.
func (s *Store) files() (names []string, err error) {
	files, err := os.ReadDir(s.dir)
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names, err
}

// ErrBusy says that an image cannot be made or removed, because a worker makes it
// or uses it.
var ErrBusy = errors.New("the image is in use")

// Remove removes an image by its digest, or by a name it was asked for by.
func (s *Store) Remove(which string) error {
	hex := cmp.Or(s.byRef(which), hexOf(which))
	if filepath.Base(hex) == hex { // and no way out of the cache
		if _, err := s.entry(hex); err == nil {
			return s.remove(hex)
		}
	}
	return fmt.Errorf("there is no image %.200q in the cache", which)
}

func (s *Store) remove(hex string) error {
	return s.alone(hex, func() error {
		// The entry first: a file system without one is made anew, or goes with tidy.
		return errors.Join(os.Remove(s.path(hex, entryExt)), os.RemoveAll(s.path(hex, imageExt)))
	})
}

// alone does something to an image that nobody else uses, makes or removes
// meanwhile, and to its entry; ErrBusy if somebody does.
func (s *Store) alone(hex string, do func() error) error {
	lock, err := s.lock(hex, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	changing, err := s.change()
	if err != nil {
		return err
	}
	defer changing.Close()
	return do()
}

// Prune removes every image that is not in use, and tells how many bytes that
// has freed.
func (s *Store) Prune() (freed int64, err error) { return s.shrink(0) }

// evict removes the images used longest ago until the rest fits.
func (s *Store) evict() {
	if _, err := s.shrink(s.limit); err != nil {
		s.log.Warn("could not remove images from the cache", "error", err)
	}
}

func (s *Store) shrink(limit int64) (freed int64, err error) {
	entries, err := s.entries()
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, e := range entries {
		total += e.Size
	}
	slices.Reverse(entries)
	for _, e := range entries {
		if total <= limit {
			break
		}
		if e := s.remove(hexOf(e.Digest)); e != nil {
			if !errors.Is(e, ErrBusy) {
				err = errors.Join(err, e)
			}
			continue
		}
		total, freed = total-e.Size, freed+e.Size
		s.log.Info("removed an image from the cache", "digest", e.Digest, "size", e.Size)
	}
	return freed, errors.Join(err, s.tidy())
}

// tidy removes what killed processes have left half done.
func (s *Store) tidy() error {
	names, err := s.files()
	for _, name := range names {
		hex, ext := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name)
		switch {
		case ext == passingExt, (ext == imageExt || ext == entryExt) && s.broken(hex):
			err = errors.Join(err, s.mend(hex))
		case strings.HasPrefix(name, entryPrefix):
			err = errors.Join(err, s.discardEntry(name))
		case strings.HasPrefix(name, layoutPrefix):
			err = errors.Join(err, s.discardScratch(filepath.Join(s.dir, name)))
		}
	}
	return err
}

func (s *Store) tidyLogged() {
	if err := s.tidy(); err != nil {
		s.log.Warn("could not remove what is left half done in the cache of images", "error", err)
	}
}

// broken tells that of an image something is there, and not all.
func (s *Store) broken(hex string) bool {
	_, err := s.whole(hex)
	return err != nil && !errors.Is(err, fs.ErrPermission)
}

// mend removes what there is of an image that is not there as a whole, unless
// somebody is making or removing it.
func (s *Store) mend(hex string) error {
	err := s.alone(hex, func() error {
		err := os.RemoveAll(s.path(hex, passingExt))
		if s.broken(hex) {
			err = errors.Join(err, os.RemoveAll(s.path(hex, entryExt)), os.RemoveAll(s.path(hex, imageExt)))
		}
		return err
	})
	if errors.Is(err, ErrBusy) {
		return nil
	}
	return err
}

// discardEntry removes an entry that was not written to its end.
func (s *Store) discardEntry(name string) error {
	changing, err := s.change()
	if err != nil {
		return err
	}
	defer changing.Close()
	return os.RemoveAll(filepath.Join(s.dir, name))
}

// scratch makes a directory for what is needed while an image is being made. It
// has a lock, and goes with tidy once that is closed.
func (s *Store) scratch() (dir string, lock *os.File, err error) {
	changing, err := s.change() // or tidy could come before the lock
	if err != nil {
		return "", nil, err
	}
	defer changing.Close()
	if dir, err = os.MkdirTemp(s.dir, layoutPrefix); err != nil {
		return "", nil, err
	}
	if lock, err = os.Open(dir); err == nil {
		lock, err = flocked(lock, unix.LOCK_EX|unix.LOCK_NB)
	}
	return dir, lock, err
}

// discardScratch removes a directory of scratch that nobody needs any longer.
func (s *Store) discardScratch(dir string) error {
	changing, err := s.change()
	if err != nil {
		return err
	}
	defer changing.Close()
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // whose it was has just removed it
	}
	if err != nil {
		return err
	}
	lock, err := flocked(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}
