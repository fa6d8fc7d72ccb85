package mount

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// walk visits what is below a directory of root that a sandbox may be writing to,
// as far as names have no more than so many segments. It reads directories piece by
// piece, for nobody knows how much is in one, and follows no link to another. What
// cannot be opened is left out if denied says so.
func walk(root *os.Root, dir string, segments int, denied func(error) error, visit func(name string, entry fs.DirEntry) error) error {
	d, err := root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if dir != "." && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)) {
			return nil // gone meanwhile
		}
		return denied(err)
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(256)
		for _, entry := range entries {
			name := path.Join(dir, entry.Name())
			if entry.IsDir() && strings.Count(name, "/")+1 < segments {
				if err := walk(root, name, segments, denied, visit); err != nil {
					return err
				}
			}
			if err := visit(name, entry); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
