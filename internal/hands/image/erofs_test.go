package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// entry is what an archive of the tests holds under a name.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)}, content}
}

func dir(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1700000000, 0)}, ""}
}

func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}, ""}
}

func hardlink(name, to string) entry {
	return entry{tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}, ""}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// erofs writes the file system of an image of one layer.
func erofs(raw []byte, to string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	w, err := newWriter(out)
	if err != nil {
		return err
	}
	tree := newTree(1 << 30)
	if err := tree.apply(bytes.NewReader(raw), w); err != nil {
		return err
	}
	first, err := w.finish(tree.root)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(first, 0)
	return err
}

// mount has the kernel mount a file system, which says more of it than a reader
// of our own could.
func mount(t testing.TB, file string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	err := unix.Mount(file, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, "")
	if err == unix.ENODEV || err == unix.ENOTBLK {
		t.Skipf("this kernel does not mount EROFS from a file: %v", err)
	}
	if err != nil {
		t.Fatalf("the kernel does not take it: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// listing describes everything below a directory, a line each.
func listing(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s syscall.Stat_t
		if err := syscall.Lstat(name, &s); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		line := fmt.Sprintf("%s %o %d:%d links %d at %d", rel, s.Mode, s.Uid, s.Gid, s.Nlink, s.Mtim.Sec)
		switch s.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " -> " + to
		case syscall.S_IFREG:
			raw, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(raw), sha256.Sum256(raw))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// described is the same of what an archive should become.
func described(entries map[string]entry) []string {
	links, subdirs := map[string]int{}, map[string]int{}
	target := func(name string) string {
		for entries[name].Typeflag == tar.TypeLink {
			name = entries[name].Linkname
		}
		return name
	}
	for name, e := range entries {
		links[target(name)]++
		if e.Typeflag == tar.TypeDir && name != "." {
			subdirs[path.Dir(name)]++
		}
	}
	var lines []string
	for name := range entries {
		e, n := entries[target(name)], links[target(name)]
		kind := map[byte]int64{tar.TypeDir: syscall.S_IFDIR, tar.TypeReg: syscall.S_IFREG, tar.TypeSymlink: syscall.S_IFLNK, tar.TypeFifo: syscall.S_IFIFO}[e.Typeflag]
		if e.Typeflag == tar.TypeDir {
			n = 2 + subdirs[name]
		}
		line := fmt.Sprintf("%s %o %d:%d links %d at %d", name, kind|e.Mode, e.Uid, e.Gid, n, e.ModTime.Unix())
		switch e.Typeflag {
		case tar.TypeSymlink:
			line += " -> " + e.Linkname
		case tar.TypeReg:
			line += fmt.Sprintf(" %d %x", len(e.content), sha256.Sum256([]byte(e.content)))
		}
		lines = append(lines, line)
	}
	return lines
}

// aTree draws entries with the names they are under; "." is the root.
func aTree(t *rapid.T) map[string]entry {
	stamp := rapid.Int64Range(0, 4_000_000_000)
	owner := rapid.SampledFrom([]int{0, 1, 1000, 65534, 65535})
	name := rapid.OneOf(
		rapid.StringMatching(`[a-z]{1,3}`),
		rapid.SampledFrom([]string{"-", "+x", ".hidden", "...", " ", "ä", "\x01", strings.Repeat("n", 255), strings.Repeat("é", 127)}),
	)
	size := rapid.OneOf(rapid.IntRange(0, 200), rapid.SampledFrom([]int{4095, 4096, 4097, 8192, 100_000}))
	entries := map[string]entry{".": {Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(stamp.Draw(t, "stamp"), 0)}}}
	dirs := []string{"."}
	var files []string
	add := func(where string, e entry) {
		e.Mode, e.Uid, e.Gid = rapid.Int64Range(0, 0o7777).Draw(t, "mode"), owner.Draw(t, "uid"), owner.Draw(t, "gid")
		if e.Typeflag == tar.TypeSymlink {
			e.Mode = 0o777
		}
		e.ModTime = time.Unix(stamp.Draw(t, "stamp"), 0)
		entries[where] = e
		switch e.Typeflag {
		case tar.TypeDir:
			dirs = append(dirs, where)
		case tar.TypeReg, tar.TypeLink:
			files = append(files, where)
		}
	}
	for range rapid.IntRange(0, 40).Draw(t, "entries") {
		where := path.Join(rapid.SampledFrom(dirs).Draw(t, "dir"), name.Draw(t, "name"))
		if _, taken := entries[where]; taken || len(where) > 3000 {
			continue
		}
		kind := rapid.SampledFrom([]byte{tar.TypeDir, tar.TypeReg, tar.TypeReg, tar.TypeSymlink, tar.TypeFifo, tar.TypeLink}).Draw(t, "kind")
		e := entry{Header: tar.Header{Typeflag: kind}}
		switch {
		case kind == tar.TypeLink && len(files) == 0:
			continue
		case kind == tar.TypeLink:
			e.Linkname = rapid.SampledFrom(files).Draw(t, "to")
		case kind == tar.TypeSymlink:
			e.Linkname = rapid.SampledFrom([]string{"a", "../b", "/c/d", strings.Repeat("x/", 2000)}).Draw(t, "to")
		case kind == tar.TypeReg:
			e.content = strings.Repeat(rapid.StringMatching(`[a-z]{1,7}`).Draw(t, "content"), 100_000)[:size.Draw(t, "size")]
			e.Size = int64(len(e.content))
		}
		add(where, e)
	}
	if rapid.Bool().Draw(t, "a large directory") {
		add("large", entry{Header: tar.Header{Typeflag: tar.TypeDir}})
		for n := range rapid.SampledFrom([]int{100, 339, 340, 341, 2000}).Draw(t, "size of it") {
			f := file(fmt.Sprintf("large/%d", n), "")
			f.Name = ""
			entries[fmt.Sprintf("large/%d", n)] = f
		}
	}
	return entries
}

// TestAsWritten has the kernel read back what was written, whatever that was and
// in whatever order it came.
func TestAsWritten(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := erofs(archive(t, dir("a")), image); err != nil {
		t.Fatal(err)
	}
	mount(t, image) // or skip
	rapid.Check(t, func(rt *rapid.T) {
		entries := aTree(rt)
		names := rapid.Permutation(slices.Sorted(maps.Keys(entries))).Draw(rt, "order")
		var list []entry
		for _, name := range names {
			e := entries[name]
			e.Name = name
			list = append(list, e)
		}
		// One image after the other, and no mount outlives its test.
		t.Run("", func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := erofs(archive(t, list...), image); err != nil {
				t.Fatal(err)
			}
			got, want := listing(t, mount(t, image)), described(entries)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("there is\n%.3000s\nand should be\n%.3000s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}
