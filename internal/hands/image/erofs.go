package image

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// The parts of EROFS that are written here: one device, blocks of 4 KiB, extended
// inodes, nothing compressed. Figures are those of the kernel's
// fs/erofs/erofs_fs.h.
const (
	blockBits  = 12
	blockSize  = 1 << blockBits
	slotSize   = 32 // inodes are counted in these
	inodeSize  = 64
	direntSize = 12

	superblockOffset = 1024
	superblockMagic  = 0xE0F5E1E2

	layoutPlain  = 0 // content in blocks of its own
	layoutInline = 2 // content behind the inode
)

// The types of inodes: as in the mode, and as in a directory.
const (
	modeFIFO    = 0o010000
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
)

var direntTypes = map[uint16]byte{modeFile: 1, modeDir: 2, modeFIFO: 5, modeSymlink: 7}

const modeType = 0o170000

// node is a file of any type. Hard links are one node under several names.
type node struct {
	mode     uint16
	uid, gid uint32
	mtime    time.Time
	children map[string]named // of a directory
	target   string           // of a symbolic link
	size     int64            // of a regular file
	start    uint32           // the first block of its content

	parent  *node      // of a directory
	blocks  [][]string // a directory's names as they are written, once it is placed
	implied bool       // a directory that no header has described yet
	cleared int        // the layer that has last hidden what lower layers have in this directory
	links   uint32
	number  uint32 // of the inode, from 1; 0 for one that has not been placed yet
	nid     uint64 // where the inode is, in slots from the first
}

func (n *node) is(kind uint16) bool { return n.mode&modeType == kind }

// eroWriter writes a file system in one go: contents as they come, then what they
// are the contents of.
type eroWriter struct {
	out   *bufio.Writer
	block uint32 // the next to be written
}

// newWriter begins a file system. The first block is left out; it is the last to
// be known, and the caller's to write.
func newWriter(out io.WriteSeeker) (*eroWriter, error) {
	if _, err := out.Seek(blockSize, io.SeekStart); err != nil {
		return nil, err
	}
	return &eroWriter{bufio.NewWriterSize(out, 1<<20), 1}, nil
}

// add writes a regular file's content and returns where it begins.
func (w *eroWriter) add(content io.Reader, size int64) (start uint32, err error) {
	if size == 0 {
		return 0, nil
	}
	if (size>>blockBits)+1 > int64(math.MaxUint32-w.block) {
		return 0, fmt.Errorf("the image is larger than 16 TiB")
	}
	start = w.block
	if _, err := io.CopyN(w.out, content, size); err != nil {
		return 0, err
	}
	return start, w.pad(size)
}

var zeros [blockSize]byte

// pad fills the block up that size bytes have been written to.
func (w *eroWriter) pad(size int64) error {
	w.block += uint32((size + blockSize - 1) >> blockBits)
	if rest := size % blockSize; rest != 0 {
		_, err := w.out.Write(zeros[rest:])
		return err
	}
	return nil
}

// finish writes the tree, and returns the first block.
func (w *eroWriter) finish(root *node) (first []byte, err error) {
	nodes := place(root)
	for _, n := range nodes {
		if n.layout() != layoutPlain {
			continue
		}
		if raw := n.tail(); len(raw) > 0 {
			n.start = w.block
			if _, err := w.out.Write(raw); err != nil {
				return nil, err
			}
			if err := w.pad(int64(len(raw))); err != nil {
				return nil, err
			}
		}
	}
	meta, position := w.block, int64(0)
	for _, n := range nodes {
		at := int64(n.nid) * slotSize
		if _, err := w.out.Write(zeros[:at-position]); err != nil {
			return nil, err
		}
		raw := n.inode()
		if n.layout() == layoutInline {
			raw = append(raw, n.tail()...)
		}
		if _, err := w.out.Write(raw); err != nil {
			return nil, err
		}
		position = at + int64(len(raw))
	}
	if err := w.pad(position); err != nil {
		return nil, err
	}
	return superblock(root.nid, len(nodes), w.block, meta), w.out.Flush()
}

// place gives every inode its number and its place, the root's first, whose place
// the superblock has 16 bits for.
func place(root *node) (nodes []*node) {
	offset := int64(0)
	var walk func(n, parent *node)
	walk = func(n, parent *node) {
		n.links++
		if n.number != 0 {
			return // another name of what has been placed
		}
		if n.is(modeDir) {
			n.blocks = direntBlocks(n.names())
		}
		size := int64(inodeSize)
		if n.layout() == layoutInline {
			size += n.length()
		}
		// No inode is in two blocks.
		if offset%blockSize+size > blockSize {
			offset = (offset + blockSize - 1) &^ (blockSize - 1)
		}
		nodes = append(nodes, n)
		n.number, n.nid, n.parent = uint32(len(nodes)), uint64(offset/slotSize), parent
		offset = (offset + size + slotSize - 1) &^ (slotSize - 1)
		if n.is(modeDir) {
			n.links = 2 // its name, and its own .
		}
		for _, name := range slices.Concat(n.blocks...) {
			if name == "." || name == ".." {
				continue
			}
			child := n.entry(name)
			walk(child, n)
			if child.is(modeDir) {
				n.links++ // its ..
			}
		}
	}
	walk(root, root)
	return nodes
}

// length is the size of the content, in bytes.
func (n *node) length() int64 {
	switch {
	case n.is(modeDir):
		return int64(len(n.blocks))<<blockBits - int64(n.slack())
	case n.is(modeSymlink):
		return int64(len(n.target))
	}
	return n.size
}

// layout says where the content is. Regular files are never inline: gVisor could
// not map them into memory.
func (n *node) layout() int {
	if (n.is(modeDir) || n.is(modeSymlink)) && n.length() <= blockSize-inodeSize {
		return layoutInline
	}
	return layoutPlain
}

// names are those of a directory, its own two among them, in their order.
func (n *node) names() []string {
	names := make([]string, 0, len(n.children)+2)
	for name := range n.children {
		names = append(names, name)
	}
	names = append(names, ".", "..")
	slices.Sort(names)
	return names
}

// direntBlocks distributes names to blocks.
func direntBlocks(names []string) (blocks [][]string) {
	used := 0
	for first := 0; first < len(names); {
		end := first
		for used = 0; end < len(names) && used+direntSize+len(names[end]) <= blockSize; end++ {
			used += direntSize + len(names[end])
		}
		blocks = append(blocks, names[first:end])
		first = end
	}
	return blocks
}

// slack is what a directory's last block has left.
func (n *node) slack() int {
	used := 0
	for _, name := range n.blocks[len(n.blocks)-1] {
		used += direntSize + len(name)
	}
	return blockSize - used
}

// tail is the content of what is not a regular file.
func (n *node) tail() []byte {
	switch {
	case n.is(modeSymlink):
		return []byte(n.target)
	case n.is(modeDir):
		return n.dirents()
	}
	return nil
}

// entry is what a name in a directory stands for.
func (n *node) entry(name string) *node {
	switch name {
	case ".":
		return n
	case "..":
		return n.parent
	}
	return n.children[name].node
}

func (n *node) dirents() (raw []byte) {
	for _, names := range n.blocks {
		raw = append(raw, make([]byte, -len(raw)&(blockSize-1))...) // up to the end of the block before
		at := direntSize * len(names)
		for _, name := range names {
			child := n.entry(name)
			raw = binary.LittleEndian.AppendUint64(raw, child.nid)
			raw = binary.LittleEndian.AppendUint16(raw, uint16(at))
			raw = append(raw, direntTypes[child.mode&modeType], 0)
			at += len(name)
		}
		raw = append(raw, strings.Join(names, "")...)
	}
	return raw
}

func (n *node) inode() []byte {
	raw := make([]byte, 0, blockSize)
	u16 := func(v int) { raw = binary.LittleEndian.AppendUint16(raw, uint16(v)) }
	u32 := func(v uint32) { raw = binary.LittleEndian.AppendUint32(raw, v) }
	u64 := func(v uint64) { raw = binary.LittleEndian.AppendUint64(raw, v) }
	const extended = 1
	u16(extended | n.layout()<<1)
	u16(0) // extended attributes
	u16(int(n.mode))
	u16(0)
	u64(uint64(n.length()))
	u32(n.start)
	u32(n.number)
	u32(n.uid)
	u32(n.gid)
	u64(uint64(n.mtime.Unix()))
	u32(uint32(n.mtime.Nanosecond()))
	u32(n.links)
	return append(raw, zeros[:inodeSize-len(raw)]...)
}

// superblock is the first block.
func superblock(root uint64, inodes int, blocks, meta uint32) []byte {
	first := make([]byte, blockSize)
	s := first[superblockOffset:]
	binary.LittleEndian.PutUint32(s[0:], superblockMagic)
	s[12] = blockBits
	binary.LittleEndian.PutUint16(s[14:], uint16(root))
	binary.LittleEndian.PutUint64(s[16:], uint64(inodes))
	binary.LittleEndian.PutUint32(s[36:], blocks)
	binary.LittleEndian.PutUint32(s[40:], meta)
	return first
}
