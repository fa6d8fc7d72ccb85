package namespace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// installed are directories that programs are installed to.
var installed = []string{
	"usr/bin", "usr/include", "usr/lib", "usr/sbin", "usr/share",
	"usr/local", "usr/local/bin", "usr/local/etc", "usr/local/include", "usr/local/lib", "usr/local/sbin", "usr/local/share", "usr/local/share/man", "usr/local/src",
	"usr/local/lib/node_modules", "usr/local/lib/python3*", "usr/local/lib/python3*/dist-packages", "usr/local/lib/python3*/site-packages",
}

// open lets the sandbox's root write to those directories, which otherwise belong to
// nobody there: it makes ones of the same name, which overlays show together with the
// host's. Where the host does not let everybody in, nor does it. It returns the system
// directories that have some.
func (r root) open() (map[string]bool, error) {
	opened := map[string]bool{}
	for _, pattern := range installed {
		found, err := filepath.Glob("/" + pattern)
		if err != nil {
			return nil, err
		}
		for _, host := range found {
			ours := filepath.Join(r.lower(), host)
			info, err := os.Lstat(host)
			if err != nil || !info.IsDir() || info.Mode()&0o005 != 0o005 {
				continue
			}
			system, _, _ := strings.Cut(host[1:], "/")
			if !opened[system] {
				opened[system] = true
				err = os.Mkdir(filepath.Join(r.lower(), system), 0o755)
			}
			if err == nil {
				err = os.Mkdir(ours, 0o755)
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue // what it is in is not open
			}
			if err := errors.Join(err, r.Users.Chown(ours)); err != nil {
				return nil, err
			}
		}
	}
	return opened, nil
}
