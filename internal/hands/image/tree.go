package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// The limits of an image.
const (
	maxEntries = 4_000_000
	maxPath    = 4096
	maxName    = 255
	maxHops    = 40 // symbolic links on the way to a directory
)

// tree is a file system being gathered from a flattened image, whose entries come
// in no particular order: a file before its directory, a hard link before what it
// is a link to.
type tree struct {
	root    *node
	entries int
	links   []hardLink
	moves   []move
	limit   int64 // how many bytes contents may take
}

type hardLink struct{ name, to string }

// move is what upper layers have put into a directory that is a symbolic link in
// a lower one.
type move struct {
	children map[string]*node
	dir      string // that the link is in
	target   string
}

func newDir(mode uint16) *node {
	return &node{mode: modeDir | mode, children: map[string]*node{}, mtime: time.Unix(0, 0), implied: true}
}

func newTree(limit int64) *tree { return &tree{root: newDir(0o755), limit: limit} }

// errLarge says that an image would not fit.
var errLarge = errors.New("the image is too large")

// read takes in a flattened image, as an archive.
func (t *tree) read(archive io.Reader, w *eroWriter) error {
	in := tar.NewReader(archive)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			// What went wrong comes behind the end of an archive that was cut short well.
			if _, err := io.Copy(io.Discard, archive); err != nil {
				return fmt.Errorf("read the image: %w", err)
			}
			return t.settle()
		}
		if err != nil {
			return fmt.Errorf("read the image: %w", err)
		}
		if t.entries++; t.entries > maxEntries {
			return fmt.Errorf("%w: it has more than %d entries", errLarge, maxEntries)
		}
		if err := t.entry(header, in, w); err != nil {
			return fmt.Errorf("%.200q: %w", header.Name, err)
		}
	}
}

func (t *tree) entry(h *tar.Header, content io.Reader, w *eroWriter) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	n := &node{mode: uint16(h.Mode & 0o7777), uid: uint32(h.Uid), gid: uint32(h.Gid), mtime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeDir:
		n.mode |= modeDir
		n.children = map[string]*node{}
	case tar.TypeReg:
		if t.limit -= h.Size; t.limit < 0 {
			return errLarge
		}
		n.mode |= modeFile
		n.size = h.Size
		if n.start, err = w.add(content, h.Size); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= maxPath {
			return errors.New("a symbolic link leads nowhere")
		}
		n.mode, n.target = modeSymlink|0o777, h.Linkname
	case tar.TypeFifo:
		n.mode |= modeFIFO
	case tar.TypeLink:
		to, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		t.links = append(t.links, hardLink{name, to})
		return nil
	default:
		return nil // a device, of which a sandbox has its own
	}
	t.put(name, n)
	return nil
}

// cleanName is a name from the root, "" for the root itself.
func cleanName(name string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if len(clean) >= maxPath || strings.Contains(clean, "\x00") {
		return "", errors.New("is not a path")
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > maxName {
			return "", fmt.Errorf("has a part of %d bytes, at most %d are possible", len(part), maxName)
		}
	}
	return clean, nil
}

// put puts a node in its place. What is there already is of an upper layer and
// stays; but a directory that is only implied is described by it.
func (t *tree) put(name string, n *node) {
	if name == "" {
		if n.is(modeDir) && t.root.implied {
			n.children = t.root.children
			t.root = n
		}
		return
	}
	parent := t.dir(path.Dir("/"+name), true)
	if parent == nil {
		return // below something that is no directory
	}
	base := path.Base(name)
	there := parent.children[base]
	switch {
	case there == nil:
		parent.children[base] = n
	case there.implied && n.is(modeDir):
		n.children = there.children
		parent.children[base] = n
	case there.implied && n.is(modeSymlink):
		t.moves = append(t.moves, move{there.children, path.Dir("/" + name), n.target})
		parent.children[base] = n
	}
}

// dir finds a directory, through no symbolic link, or makes it; nil where
// something else is in the way.
func (t *tree) dir(name string, make bool) *node {
	n := t.root
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		next := n.children[part]
		if next == nil {
			if !make {
				return nil
			}
			next = newDir(0o755)
			n.children[part] = next
		}
		if !next.is(modeDir) {
			return nil
		}
		n = next
	}
	return n
}

// find finds what is at a path, through no symbolic link.
func (t *tree) find(name string) *node {
	if parent := t.dir(path.Dir("/"+name), false); parent != nil {
		return parent.children[path.Base(name)]
	}
	return nil
}

// settle does what had to wait until all is there.
func (t *tree) settle() error {
	for _, m := range t.moves {
		target := m.target
		if !path.IsAbs(target) {
			target = m.dir + "/" + target
		}
		if to := t.resolve(target, true); to != nil && to.is(modeDir) {
			merge(to, m.children)
		}
	}
	// A link may be to a link.
	for left := t.links; len(left) > 0; {
		var again []hardLink
		for _, l := range left {
			if to := t.find(l.to); to != nil && !to.is(modeDir) {
				t.put(l.name, to)
			} else {
				again = append(again, l)
			}
		}
		if len(again) == len(left) {
			return fmt.Errorf("%.200q is a link to %.200q, which the image does not have", left[0].name, left[0].to)
		}
		left = again
	}
	return nil
}

// resolve finds what is at a path, through symbolic links as a process in the
// image would, or makes directories to get there; nil for nothing.
func (t *tree) resolve(name string, make bool) *node {
	dirs, rest := []*node{t.root}, strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		here := dirs[len(dirs)-1]
		switch {
		case part == "" || part == ".":
			continue
		case !here.is(modeDir):
			return nil
		case part == "..":
			dirs = dirs[:max(1, len(dirs)-1)]
			continue
		}
		next := here.children[part]
		if next == nil && make {
			next = newDir(0o755)
			here.children[part] = next
		}
		if next == nil {
			return nil
		}
		if !next.is(modeSymlink) {
			dirs = append(dirs, next)
			continue
		}
		if hops++; hops > maxHops {
			return nil
		}
		if path.IsAbs(next.target) {
			dirs = dirs[:1]
		}
		rest = append(strings.Split(next.target, "/"), rest...)
	}
	return dirs[len(dirs)-1]
}

func merge(to *node, children map[string]*node) {
	for name, child := range children {
		there := to.children[name]
		switch {
		case there == nil:
			to.children[name] = child
		case there.is(modeDir) && child.is(modeDir):
			merge(there, child.children)
		case there != child:
			to.children[name] = child // of an upper layer
		}
	}
}

// require makes sure that there is a directory or an empty file, for something to
// be mounted on.
func (t *tree) require(name string, mode uint16) error {
	if n := t.resolve(name, mode&modeType == modeDir); n != nil && n.mode&modeType == mode&modeType {
		if n.implied {
			n.mode, n.implied = mode, false
		}
		return nil
	}
	parent := t.resolve(path.Dir(name), true)
	if parent == nil || !parent.is(modeDir) || parent.children[path.Base(name)] != nil {
		return fmt.Errorf("the image has something else at /%s", name)
	}
	n := &node{mode: mode, mtime: time.Unix(0, 0)}
	if n.is(modeDir) {
		n.children = map[string]*node{}
	}
	parent.children[path.Base(name)] = n
	return nil
}

// furnish makes sure that what engines mount upon is there, and that temporary
// files have a place.
func (t *tree) furnish(w *eroWriter) error {
	for _, d := range []struct {
		name string
		mode uint16
	}{
		{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"etc", 0o755}, {"run", 0o755}, {"home", 0o755}, {"root", 0o700}, {"mnt", 0o755},
		{"workspace", 0o755}, {"srv", 0o755}, {"opt", 0o755}, {"tmp", 0o1777}, {"var", 0o755}, {"var/tmp", 0o1777},
	} {
		// A link here could lead whoever mounts upon it out of the image.
		if n := t.root.children[d.name]; n != nil && n.is(modeSymlink) && d.name != "etc" {
			delete(t.root.children, d.name)
		}
		if err := t.require(d.name, modeDir|d.mode); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/hostname": "sandbox\n", "etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n", "etc/resolv.conf": "# no network\n",
	} {
		if err := t.fill(name, text, w); err != nil {
			return err
		}
	}
	// The hand, and what keeps gVisor from covering an empty /tmp with memory.
	for _, name := range []string{Hand, Placeholder} {
		if err := t.require(name, modeFile|0o755); err != nil {
			return err
		}
	}
	return nil
}

// fill writes a file that the image leaves out or empty, because whoever runs it
// is to provide it.
func (t *tree) fill(name, text string, w *eroWriter) error {
	n := t.resolve(name, false)
	if n != nil && (!n.is(modeFile) || n.size > 0) {
		return nil
	}
	if n == nil {
		parent := t.resolve(path.Dir(name), true)
		if parent == nil || !parent.is(modeDir) || parent.children[path.Base(name)] != nil {
			return nil // a link that leads nowhere, for one
		}
		n = &node{mode: modeFile | 0o644, mtime: time.Unix(0, 0)}
		parent.children[path.Base(name)] = n
	}
	n.size = int64(len(text))
	start, err := w.add(strings.NewReader(text), n.size)
	n.start = start
	return err
}

// What is in every image, from its root: a file to mount the hand upon, and one
// that the hand removes as it begins.
const (
	Hand        = ".hearth"
	Placeholder = "tmp/.hearth"
)

// isExecutable tells whether there is a program at a path.
func (t *tree) isExecutable(name string) bool {
	n := t.resolve(name, false)
	return n != nil && n.is(modeFile) && n.mode&0o111 != 0
}
