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

// The limits of an image. Text is names and what symbolic links lead to, and like
// the entries is held in memory until all is read; it and walks are in bytes.
const (
	maxEntries = 2_000_000
	maxText    = 256 << 20
	maxWalks   = 1 << 30 // what is looked up, names and the links on their way together
	maxPath    = 4096
	maxName    = 255
	maxHops    = 40 // symbolic links on the way to a file
)

// tree is a file system being gathered from an image's layers, the lowest first.
// Within a layer entries come in no particular order: a file before its directory,
// a hard link before what it is a link to. There is no file of the host behind any
// of it, so whatever a name or a link says, it leads to something of the image.
type tree struct {
	root    *node
	layer   int        // the one being read, from 1
	links   []hardLink // of this layer, to what is not there yet
	entries int
	text    int   // bytes
	walks   int   // bytes
	limit   int64 // how many bytes the image may take still
}

// named is what a name in a directory stands for, and the last layer that had the
// name.
type named struct {
	*node
	layer int
}

type hardLink struct{ name, to string }

func newDir(mode uint16) *node {
	return &node{mode: modeDir | mode, children: map[string]named{}, mtime: time.Unix(0, 0), implied: true}
}

func newTree(limit int64) *tree { return &tree{root: newDir(0o755), limit: limit} }

// errLarge says that an image would not fit.
var errLarge = errors.New("the image is too large")

// apply takes in the next layer, as an archive.
func (t *tree) apply(archive io.Reader, w *eroWriter) error {
	t.layer++
	for in := tar.NewReader(archive); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			// What went wrong comes behind the end of an archive that was cut short well.
			if _, err := io.Copy(io.Discard, archive); err != nil {
				return fmt.Errorf("read a layer: %w", err)
			}
			return t.settle()
		}
		if err != nil {
			return fmt.Errorf("read a layer: %w", err)
		}
		if err := t.entry(header, in, w); err != nil {
			return fmt.Errorf("%.200q: %w", header.Name, err)
		}
	}
}

func (t *tree) entry(h *tar.Header, content io.Reader, w *eroWriter) error {
	if err := t.count(); err != nil {
		return err
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if dir, base := path.Split(name); strings.HasPrefix(base, whiteout) {
		return t.hide(dir, base)
	}
	n := &node{mode: uint16(h.Mode & 0o7777), uid: owner(h.Uid), gid: owner(h.Gid), mtime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeDir:
		n.mode |= modeDir
		n.children = map[string]named{}
	case tar.TypeReg, tar.TypeGNUSparse:
		return t.file(name, n, content, h.Size, w)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= maxPath {
			return errors.New("a symbolic link leads nowhere")
		}
		n.mode, n.target = modeSymlink|0o777, strings.Clone(h.Linkname)
	case tar.TypeFifo:
		n.mode |= modeFIFO
	case tar.TypeLink:
		return t.link(name, h.Linkname)
	default:
		return nil // a device, of which a sandbox has its own
	}
	_, err = t.put(name, n)
	return err
}

// A sandbox has so many users. What belongs to none of them nobody in it could open,
// root included, so it belongs to the one that is called nobody.
const (
	users  = 1 << 16
	nobody = 65534
)

// owner is the user or the group of a file that a header has it belong to.
func owner(id int) uint32 {
	if id < 0 || id >= users {
		return nobody
	}
	return uint32(id)
}

// file puts a regular file in its place, and its content into the image.
func (t *tree) file(name string, n *node, content io.Reader, size int64, w *eroWriter) error {
	n.mode |= modeFile
	if there, err := t.put(name, n); !there || err != nil {
		return err
	}
	if err := t.charge(size, blockSize); err != nil {
		return err
	}
	start, err := w.add(content, size)
	n.size, n.start = size, start
	return err
}

// cleanName is a name from the root, "" for the root itself.
func cleanName(name string) (string, error) {
	if len(name) >= maxPath {
		return "", fmt.Errorf("has %d bytes, at most %d are possible", len(name), maxPath-1)
	}
	if clean := path.Clean(name); clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains(clean, "\x00") {
		return "", errors.New("is unsafe: it is no path within the image")
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > maxName {
			return "", fmt.Errorf("has a part of %d bytes, at most %d are possible", len(part), maxName)
		}
	}
	return clean, nil
}

// count counts what takes memory or time, whatever becomes of it.
func (t *tree) count() error {
	if t.entries++; t.entries > maxEntries {
		return fmt.Errorf("%w: it has more than %d entries", errLarge, maxEntries)
	}
	return nil
}

// keep counts text that is held in memory, in bytes.
func (t *tree) keep(text int) error {
	if t.text += text; t.text > maxText {
		return fmt.Errorf("%w: its names have more than %d bytes", errLarge, maxText)
	}
	return nil
}

// charge takes size bytes, in whole units, from what the image may take.
func (t *tree) charge(size, unit int64) error {
	if size <= t.limit { // or the sum could be too large for its type
		t.limit -= (size + unit - 1) / unit * unit
	} else {
		t.limit = -1
	}
	if t.limit < 0 {
		return fmt.Errorf("%w: it takes more than all images together may, which --image-cache says", errLarge)
	}
	return nil
}

// nodeSize is the most that an inode takes without what a symbolic link leads to,
// with the two names that each directory has and its entry in one; in bytes.
const nodeSize = 144

// bind has a name in a directory stand for something.
func (t *tree) bind(dir *node, name string, n *node) error {
	text := len(name) + len(n.target)
	if err := t.keep(text); err != nil {
		return err
	}
	// Neither inodes nor names lie across blocks, which can cost as much again.
	if err := t.charge(2*(nodeSize+int64(text)), 1); err != nil {
		return err
	}
	// A part of a header's text would keep all of it in memory.
	dir.children[strings.Clone(name)] = named{n, t.layer}
	return nil
}

// put has a name stand for a node, instead of what it stood for. But a directory
// that is there stays, with what is in it, and is only described anew. There is no
// place for what is below something that is no directory.
func (t *tree) put(name string, n *node) (there bool, err error) {
	if name == "" {
		if n.is(modeDir) {
			t.root.describe(n)
		}
		return false, nil
	}
	dir, base := path.Split(name)
	parent, err := t.resolve(dir, true)
	if err != nil || parent == nil || !parent.is(modeDir) {
		return false, err
	}
	if old := parent.children[base]; old.node != nil && old.is(modeDir) && n.is(modeDir) {
		old.describe(n)
		n = old.node
	}
	return true, t.bind(parent, base, n)
}

// describe gives a directory the mode, the owner and the time of another.
func (n *node) describe(as *node) {
	n.mode, n.uid, n.gid, n.mtime, n.implied = as.mode, as.uid, as.gid, as.mtime, false
}

// How layers say what of the layers below them is gone: a file of a directory by
// its name behind whiteout, and with opaque all that is in one.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// hide does what a whiteout says. What this layer has stays, before or behind it.
func (t *tree) hide(dir, base string) error {
	d, err := t.resolve(dir, false)
	if err != nil || d == nil || !d.is(modeDir) {
		return err
	}
	if base == opaque {
		t.clear(d)
		return nil
	}
	base = strings.TrimPrefix(base, whiteout)
	switch old := d.children[base]; {
	case old.node == nil:
	case old.layer < t.layer:
		delete(d.children, base)
	case old.is(modeDir):
		t.clear(old.node)
	}
	return nil
}

// clear takes out of a directory, and of those in it, what only lower layers have.
// It looks into each once in a layer: nothing of theirs comes back.
func (t *tree) clear(d *node) {
	if d.cleared == t.layer {
		return
	}
	d.cleared = t.layer
	for name, child := range d.children {
		switch {
		case child.layer < t.layer:
			delete(d.children, name)
		case child.is(modeDir):
			t.clear(child.node)
		}
	}
}

// link gives what a name stands for another name, now or when the layer ends.
func (t *tree) link(name, to string) error {
	to, err := cleanName(to)
	if err != nil {
		return err
	}
	made, err := t.tryLink(hardLink{name, to})
	if made || err != nil {
		return err
	}
	t.links = append(t.links, hardLink{strings.Clone(name), strings.Clone(to)})
	return t.keep(len(name) + len(to))
}

// tryLink makes a hard link, unless what it is a link to is not there.
func (t *tree) tryLink(l hardLink) (made bool, err error) {
	dir, base := path.Split(l.to)
	parent, err := t.resolve(dir, false)
	if err != nil || parent == nil || !parent.is(modeDir) {
		return false, err
	}
	to := parent.children[base].node
	if to == nil || to.is(modeDir) {
		return false, nil
	}
	_, err = t.put(l.name, to)
	return true, err
}

// settle makes the links that came before what they are links to. Each is tried
// once, and once more when the link that it is a link to is made.
func (t *tree) settle() error {
	waiting := map[string][]hardLink{} // by what they are links to
	for todo := t.links; len(todo) > 0; {
		l := todo[0]
		todo = todo[1:]
		made, err := t.tryLink(l)
		switch {
		case err != nil:
			return fmt.Errorf("%.200q: %w", l.name, err)
		case made:
			todo = append(todo, waiting[l.name]...)
			delete(waiting, l.name)
		default:
			waiting[l.to] = append(waiting[l.to], l)
		}
	}
	t.links = nil
	for _, left := range waiting {
		return fmt.Errorf("%.200q is a link to %.200q, which the image does not have", left[0].name, left[0].to)
	}
	return nil
}

// resolve finds what is at a path, through symbolic links as a process in the
// image would; nil for nothing. If asked to it makes the directories on the way,
// also where a lower layer has a file.
func (t *tree) resolve(name string, make bool) (*node, error) {
	dirs, rest := []*node{t.root}, name
	if t.walks += len(rest); t.walks > maxWalks {
		return nil, fmt.Errorf("%w: its paths have more than %d bytes, with the links on their way", errLarge, maxWalks)
	}
	for hops := 0; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		here := dirs[len(dirs)-1]
		switch {
		case part == "" || part == ".":
			continue
		case !here.is(modeDir):
			return nil, nil
		case part == "..":
			dirs = dirs[:max(1, len(dirs)-1)]
			continue
		}
		next := here.children[part]
		if make {
			var err error
			if next, err = t.step(here, part); err != nil {
				return nil, err
			}
		}
		if next.node == nil {
			return nil, nil
		}
		if !next.is(modeSymlink) {
			dirs = append(dirs, next.node)
			continue
		}
		if hops++; hops > maxHops {
			return nil, nil
		}
		if path.IsAbs(next.target) {
			dirs = dirs[:1]
		}
		rest = next.target + "/" + rest
		t.walks += len(rest)
	}
	return dirs[len(dirs)-1], nil
}

// step goes into a directory of this layer, which may not have been there.
func (t *tree) step(dir *node, name string) (named, error) {
	there := dir.children[name]
	switch {
	case there.node == nil || there.layer < t.layer && !there.is(modeDir) && !there.is(modeSymlink):
		if err := t.count(); err != nil {
			return there, err
		}
		err := t.bind(dir, name, newDir(0o755))
		return dir.children[name], err
	case there.layer < t.layer && there.is(modeDir):
		there.layer = t.layer
		dir.children[name] = there
	}
	return there, nil
}

// require makes sure that there is a directory or an empty file, for something to
// be mounted on.
func (t *tree) require(name string, mode uint16) error {
	n, err := t.resolve(name, mode&modeType == modeDir)
	if err != nil {
		return err
	}
	if n != nil && n.mode&modeType == mode&modeType {
		if n.implied {
			n.mode, n.implied = mode, false
		}
		return nil
	}
	parent, err := t.resolve(path.Dir(name), true)
	if err != nil {
		return err
	}
	if parent == nil || !parent.is(modeDir) || parent.children[path.Base(name)].node != nil {
		return fmt.Errorf("the image has something else at /%s", name)
	}
	n = &node{mode: mode, mtime: time.Unix(0, 0)}
	if n.is(modeDir) {
		n.children = map[string]named{}
	}
	return t.bind(parent, path.Base(name), n)
}

// furnish makes sure that what engines mount upon is there, and that temporary
// files have a place.
func (t *tree) furnish(w *eroWriter) error {
	t.layer = 0 // no directory is made where the image has a file
	for _, d := range []struct {
		name string
		mode uint16
	}{
		{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"etc", 0o755}, {"run", 0o755}, {"home", 0o755}, {"root", 0o700}, {"mnt", 0o755},
		{"workspace", 0o755}, {"srv", 0o755}, {"opt", 0o755}, {"tmp", 0o1777}, {"var", 0o755}, {"var/tmp", 0o1777},
	} {
		// A link here could lead whoever mounts upon it out of the image.
		if d.name != "etc" && d.name != "var/tmp" {
			if err := t.unlink(d.name); err != nil {
				return err
			}
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
	// The hand, and what keeps gVisor from covering an empty /tmp with memory. A link
	// would have the hand lie elsewhere, where sessions may write, for one.
	for _, name := range []string{Hand, Placeholder} {
		if err := t.unlink(name); err != nil {
			return err
		}
		if err := t.require(name, modeFile|0o755); err != nil {
			return err
		}
	}
	return nil
}

// unlink takes a symbolic link away.
func (t *tree) unlink(name string) error {
	dir, base := path.Split(name)
	parent, err := t.resolve(dir, false)
	if err == nil && parent != nil && parent.is(modeDir) {
		if n := parent.children[base]; n.node != nil && n.is(modeSymlink) {
			delete(parent.children, base)
		}
	}
	return err
}

// fill writes a file that the image leaves out or empty, because whoever runs it
// is to provide it.
func (t *tree) fill(name, text string, w *eroWriter) error {
	n, err := t.resolve(name, false)
	if err != nil || n != nil && (!n.is(modeFile) || n.size > 0) {
		return err
	}
	if n == nil {
		parent, err := t.resolve(path.Dir(name), true)
		if err != nil || parent == nil || !parent.is(modeDir) || parent.children[path.Base(name)].node != nil {
			return err // nil for a link that leads nowhere, for one
		}
		n = &node{mode: modeFile | 0o644, mtime: time.Unix(0, 0)}
		if err := t.bind(parent, path.Base(name), n); err != nil {
			return err
		}
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
	n, err := t.resolve(name, false)
	return err == nil && n != nil && n.is(modeFile) && n.mode&0o111 != 0
}
