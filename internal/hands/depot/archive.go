package depot

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// usersEach is how many host users stand behind those of a sandbox, at most.
const usersEach = 1 << 16

// insideUser and insideGroup are the records of an archive that say whose a file
// is in the sandbox; without them it is the worker's.
const (
	insideUser  = "HEARTH.uid"
	insideGroup = "HEARTH.gid"
)

// inode tells hard links.
type inode struct{ dev, ino uint64 }

// archive writes the files and directories of names below dir, which nothing
// changes meanwhile.
func archive(to io.Writer, dir string, base int, names []string) error {
	w := tar.NewWriter(to)
	seen := map[inode]string{}
	var shutAgain []func() error
	defer func() {
		for _, again := range slices.Backward(shutAgain) { // what is deeper first
			_ = again()
		}
	}()
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path == filepath.Join(dir, name) {
				return nil // there is no such thing in this session
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			if info.IsDir() && shut(info, 0o500) {
				shutAgain = append(shutAgain, func() error { return os.Chmod(path, info.Mode()) })
				if err := os.Chmod(path, info.Mode()|0o500); err != nil {
					return err
				}
			}
			return add(w, path, rel, info, base, seen)
		})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

// shut tells whether the worker has to open a file first. Root in the sandbox of an
// ordinary user's worker may read what is that user's, whatever its mode; the worker,
// outside, may not.
func shut(info fs.FileInfo, mode fs.FileMode) bool {
	return info.Mode()&mode != mode && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}

func add(w *tar.Writer, path, name string, info fs.FileInfo, base int, seen map[inode]string) (err error) {
	if info.Mode()&(fs.ModeSocket|fs.ModeDevice) != 0 {
		return nil // whoever listened is gone; and there are no devices
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	h.Name, h.Format, h.Uname, h.Gname, h.Uid, h.Gid = name, tar.FormatPAX, "", "", 0, 0
	h.PAXRecords = map[string]string{}
	for record, id := range map[string]uint32{insideUser: stat.Uid, insideGroup: stat.Gid} {
		if inside := int(id) - base; inside >= 0 && inside < usersEach {
			h.PAXRecords[record] = strconv.Itoa(inside)
		}
	}
	if info.Mode().IsRegular() && stat.Nlink > 1 {
		id := inode{uint64(stat.Dev), stat.Ino}
		if first, again := seen[id]; again {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		seen[id] = name
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return w.WriteHeader(h)
	}
	if shut(info, 0o400) {
		if err := os.Chmod(path, info.Mode()|0o400); err != nil {
			return err
		}
		defer os.Chmod(path, info.Mode())
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if stat.Blocks*512 < h.Size {
		return addSparse(w, h, f)
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// typeSparse is a file with holes, which cost a sandbox nothing and, as zeros, would
// cost days and somebody's whole disk. Its content is that of its parts, each after
// where it begins and how long it is, in eight bytes each; and sparseSize is the
// record of its length.
const (
	typeSparse = 'H'
	sparseSize = "HEARTH.size"
	partHead   = 16
)

// part is one of a file that is no hole.
type part struct{ at, size int64 }

func parts(f *os.File, size int64) (all []part, err error) {
	for end := int64(0); end < size; {
		at, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // the rest is a hole
		}
		if err != nil {
			return nil, err
		}
		if end, err = unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		end = min(end, size)
		all = append(all, part{at, end - at})
	}
	return all, nil
}

func addSparse(w *tar.Writer, h *tar.Header, f *os.File) error {
	all, err := parts(f, h.Size)
	if err != nil {
		return fmt.Errorf("look for what is in %s: %w", h.Name, err)
	}
	h.Typeflag, h.PAXRecords[sparseSize], h.Size = typeSparse, strconv.FormatInt(h.Size, 10), 0
	for _, p := range all {
		h.Size += partHead + p.size
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	for _, p := range all {
		if err := binary.Write(w, binary.BigEndian, [2]int64{p.at, p.size}); err != nil {
			return err
		}
		if _, err := io.Copy(w, io.NewSectionReader(f, p.at, p.size)); err != nil {
			return err
		}
	}
	return nil
}

func putSparse(f *os.File, h *tar.Header, content io.Reader) error {
	size, err := strconv.ParseInt(h.PAXRecords[sparseSize], 10, 64)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	for {
		var head [2]int64
		if err := binary.Read(content, binary.BigEndian, &head); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if at, length := head[0], head[1]; at < 0 || length < 0 || at > size-length {
			return fmt.Errorf("%.200q has a part that is not in it", h.Name)
		}
		if _, err := io.CopyN(io.NewOffsetWriter(f, head[0]), content, head[1]); err != nil {
			return err
		}
	}
}

// extract unpacks an archive into an empty directory.
func extract(from io.Reader, dir string, base int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var dirs []*tar.Header
	for in := tar.NewReader(from); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		h.Name = strings.TrimSuffix(h.Name, "/")
		if err := put(root, h, in, base); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
	}
	// What is put into a directory changes its time, and may not be allowed by its
	// mode.
	for i := len(dirs) - 1; i >= 0; i-- {
		h := dirs[i]
		if err := errors.Join(root.Chmod(h.Name, h.FileInfo().Mode()), root.Chtimes(h.Name, h.ModTime, h.ModTime)); err != nil {
			return err
		}
	}
	return nil
}

func put(root *os.Root, h *tar.Header, content io.Reader, base int) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(h.Name, 0o700); err != nil {
			return err
		}
		return own(root, h, base)
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return own(root, h, base)
	case tar.TypeLink:
		return root.Link(h.Linkname, h.Name)
	case tar.TypeFifo:
		parent, err := root.Open(filepath.Dir(h.Name))
		if err != nil {
			return err
		}
		defer parent.Close()
		if err := unix.Mkfifoat(int(parent.Fd()), filepath.Base(h.Name), 0o600); err != nil {
			return err
		}
	case tar.TypeReg, typeSparse:
		f, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if h.Typeflag == typeSparse {
			err = putSparse(f, h, content)
		} else {
			_, err = io.Copy(f, content)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%.200q is of a type that is not expected", h.Name)
	}
	// The owner first: to change it takes away the set-user-ID bit.
	return errors.Join(own(root, h, base), root.Chmod(h.Name, h.FileInfo().Mode()), root.Chtimes(h.Name, h.ModTime, h.ModTime))
}

// own gives a file to whom it belonged inside.
func own(root *os.Root, h *tar.Header, base int) error {
	if os.Getuid() != 0 {
		return nil // who has but themselves
	}
	id := func(record string) (int, error) {
		text, ok := h.PAXRecords[record]
		if !ok {
			return 0, nil
		}
		inside, err := strconv.Atoi(text)
		if err == nil && (inside < 0 || inside >= usersEach) {
			err = fmt.Errorf("%.200q belongs to nobody of a sandbox", h.Name)
		}
		return base + inside, err
	}
	uid, err := id(insideUser)
	if err != nil {
		return err
	}
	gid, err := id(insideGroup)
	if err != nil {
		return err
	}
	return root.Lchown(h.Name, uid, gid)
}
