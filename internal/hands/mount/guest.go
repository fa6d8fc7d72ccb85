package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"hearth/internal/hands/sandbox"
)

// spot is where something appears in the sandbox. What lies below root is the
// sandbox's to change at any time: no link in it leads out of root.
type spot struct {
	root *os.Root
	name string
}

// beside is a name in the same directory.
func (s spot) beside(name string) string { return path.Join(path.Dir(s.name), name) }

// open finds a path of the sandbox on this host.
func (m *Mounter) open(guest string) (spot, error) {
	for _, d := range []struct{ guest, host string }{{sandbox.GuestWorkdir, m.Work}, {sandbox.GuestMnt, m.Mnt}} {
		name, below := strings.CutPrefix(guest, d.guest+"/")
		if !below {
			continue
		}
		if d.host == "" {
			return spot{}, fmt.Errorf("nothing can be mounted below %s here, because the worker's engine has no file system of its own", d.guest)
		}
		if !fs.ValidPath(name) {
			return spot{}, fmt.Errorf("%.200q is not a path to mount at", guest)
		}
		root, err := os.OpenRoot(d.host)
		return spot{root, name}, err
	}
	return spot{}, fmt.Errorf("this worker mounts below %s and %s only, not at %.200q", sandbox.GuestWorkdir, sandbox.GuestMnt, guest)
}

// make finds a path of the sandbox and makes the directories that lead there,
// which are the sandbox's own.
func (m *Mounter) make(guest string) (spot, error) {
	s, err := m.open(guest)
	if err != nil {
		return s, err
	}
	if err := m.mkdirs(s.root, path.Dir(s.name)); err != nil {
		s.root.Close()
		return s, fmt.Errorf("make the directories of %s: %w", guest, err)
	}
	return s, nil
}

func (m *Mounter) mkdirs(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if err := m.mkdirs(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	uid, gid, ok := m.user()
	if !ok {
		return nil
	}
	return root.Lchown(dir, uid, gid)
}

// user is whom the sandbox's files belong to on this host; not ok where all
// belong to the worker's own.
func (m *Mounter) user() (uid, gid int, ok bool) {
	if os.Getuid() != 0 {
		return 0, 0, false
	}
	info, err := os.Stat(m.Work)
	if err != nil {
		return 0, 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(stat.Uid), int(stat.Gid), true
}
