package depot

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gocloud.dev/blob"
	"golang.org/x/sys/unix"

	blobstore "hearth/internal/blob"
)

func open(t *testing.T, dir, key string) *Depot {
	t.Helper()
	bucket, err := blobstore.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bucket.Close() })
	d, err := New(bucket, key, "env_1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newKey(t *testing.T) string {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// tree describes what is below a directory; users are counted from base.
func tree(t *testing.T, dir string, base int) (lines []string) {
	t.Helper()
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s syscall.Stat_t
		if err := syscall.Lstat(path, &s); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if rel == "." {
			return nil
		}
		owner := fmt.Sprintf("%d:%d", int(s.Uid)-base, int(s.Gid)-base)
		if s.Uid == uint32(os.Getuid()) {
			owner = "the worker's"
		}
		line := fmt.Sprintf("%s %o %s", rel, s.Mode, owner)
		switch s.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x at %d", raw[:min(len(raw), 64)], s.Mtim.Nano())
			if first, again := inodes[s.Ino]; again {
				line += " is " + first
			}
			inodes[s.Ino] = rel
		case syscall.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case syscall.S_IFDIR:
			line += fmt.Sprintf(" at %d", s.Mtim.Nano())
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// state makes a session's directory as a sandbox with users from base would leave
// it.
func state(t *testing.T, base int) string {
	t.Helper()
	dir := t.TempDir()
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(
		os.MkdirAll(at("work/sub/empty"), 0o755), os.WriteFile(at("work/sub/file"), []byte("content\n"), 0o640), os.Link(at("work/sub/file"), at("work/again")),
		os.Symlink("/etc/passwd", at("work/link")), os.Symlink("../../../..", at("work/sub/out")), unix.Mkfifo(at("work/pipe"), 0o600),
		os.WriteFile(at("work/"+strings.Repeat("n", 200)+"ä\n"), bytes.Repeat([]byte("x"), 1<<20), 0o600),
		os.MkdirAll(at("mnt/session/uploads"), 0o755), os.WriteFile(at("mnt/session/uploads/mine"), nil, 0o444), os.WriteFile(at("list.json"), []byte("{}"), 0o600),
		os.WriteFile(at("lock"), nil, 0o600),
	)
	if base != os.Getuid() {
		for _, name := range []string{"work", "work/sub", "work/sub/empty", "work/sub/file", "work/link", "work/pipe"} {
			must(os.Lchown(at(name), base, base))
		}
		must(os.Lchown(at("work/sub/file"), base+1000, base+100))
	}
	must(os.Chmod(at("work/sub/file"), 0o640|fs.ModeSetuid), os.Chmod(at("work/sub/empty"), 0o500), os.Chtimes(at("work/sub"), time.Unix(1, 2), time.Unix(1_000_000_000, 5)))
	return dir
}

func TestThereAndBack(t *testing.T) {
	store, key := t.TempDir(), newKey(t)
	from, to := os.Getuid(), os.Getuid()
	if os.Getuid() == 0 {
		from, to = 1<<30, 1<<30+7<<16
	}
	dir := state(t, from)
	d := open(t, store, key)
	if _, live, err := d.Look(t.Context(), "sesn_1"); live || err != nil {
		t.Fatalf("before there is any: %v, %v", live, err)
	}
	p := Parked{Generation: "g1", Engine: "gvisor", Program: "abc", Worker: "one", At: time.Now().UTC()}
	if _, err := d.Put(t.Context(), "sesn_1", p, dir, from, []string{"work", "mnt", "list.json", "absent"}); err != nil {
		t.Fatal(err)
	}
	other := open(t, store, key)
	got, live, err := other.Look(t.Context(), "sesn_1")
	if err != nil || !live || got != p {
		t.Fatalf("another worker sees %+v, %v, %v", got, live, err)
	}
	arrived := t.TempDir()
	if err := other.Fetch(t.Context(), "sesn_1", "g1", arrived, to); err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(tree(t, dir, from), func(line string) bool { return strings.HasPrefix(line, "lock ") })
	if got := tree(t, arrived, to); !slices.Equal(got, want) {
		t.Errorf("what arrived is\n%.2000s\nwant\n%.2000s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := other.Take(t.Context(), "sesn_1"); err != nil {
		t.Fatal(err)
	}
	if _, live, err := d.Look(t.Context(), "sesn_1"); live || err != nil {
		t.Errorf("after it has been taken: %v, %v", live, err)
	}
	if latest, err := d.Latest(t.Context(), "sesn_1"); latest != "g1" || err != nil {
		t.Errorf("its files are in %q, %v", latest, err)
	}
	p.Generation = "g2"
	if _, err := other.Put(t.Context(), "sesn_1", p, arrived, to, []string{"work"}); err != nil {
		t.Fatal(err)
	}
	if latest, err := d.Latest(t.Context(), "sesn_1"); latest != "g2" || err != nil {
		t.Errorf("then in %q, %v", latest, err)
	}
	if err := d.Fetch(t.Context(), "sesn_1", "g1", t.TempDir(), from); err == nil {
		t.Error("the earlier state is still there")
	}
}

func TestNothingIsReadableWithoutTheKey(t *testing.T) {
	store := t.TempDir()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), bytes.Repeat([]byte("very secret content "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, store, newKey(t)).Put(t.Context(), "sesn_1", Parked{Generation: "g"}, dir, 0, []string{"secret"}); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(store, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte("secret")) {
			t.Errorf("%s shows it", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := open(t, store, newKey(t)).Fetch(t.Context(), "sesn_1", "g", t.TempDir(), 0); err == nil || !strings.Contains(err.Error(), "another fleet") {
		t.Errorf("with another key: %v", err)
	}
	for _, key := range []string{"", "no key", "age1qqqq"} {
		if _, err := New(nil, key, "env_1", nil); err == nil {
			t.Errorf("%q is taken for a key", key)
		}
	}
	if _, err := New(nil, newKey(t), "../env", nil); err == nil {
		t.Error("a path is taken for an environment's id")
	}
}

// TestChanged changes every part of what is stored.
func TestChanged(t *testing.T) {
	store, key := t.TempDir(), newKey(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, store, key)
	if _, err := d.Put(t.Context(), "sesn_1", Parked{Generation: "g"}, dir, 0, []string{"file"}); err != nil {
		t.Fatal(err)
	}
	name := d.name("sesn_1", "g"+stateExt)
	good, err := d.bucket.ReadAll(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(good); at += 7 {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if err := d.bucket.WriteAll(t.Context(), name, bad, nil); err != nil {
			t.Fatal(err)
		}
		if err := d.Fetch(t.Context(), "sesn_1", "g", t.TempDir(), 0); err == nil {
			t.Errorf("with byte %d of %d changed it is taken", at, len(good))
		}
	}
	for _, n := range []int{0, 10, len(good) / 2, len(good) - 1} {
		if err := d.bucket.WriteAll(t.Context(), name, good[:n], nil); err != nil {
			t.Fatal(err)
		}
		if err := d.Fetch(t.Context(), "sesn_1", "g", t.TempDir(), 0); err == nil {
			t.Errorf("cut after %d of %d bytes it is taken", n, len(good))
		}
	}
}

// TestMoved: what is stored of one session is not taken for another's, wherever who
// may write to the store puts it, nor for another time's.
func TestMoved(t *testing.T) {
	d, dir := open(t, t.TempDir(), newKey(t)), t.TempDir()
	for n, session := range []string{"sesn_1", "sesn_2", "sesn_2"} {
		if _, err := d.Put(t.Context(), session, Parked{Generation: fmt.Sprint("g", n)}, dir, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{d.name("sesn_2", "g2"+stateExt), d.name("sesn_1", "g3"+stateExt)} {
		if err := d.bucket.Copy(t.Context(), to, d.name("sesn_1", "g0"+stateExt), nil); err != nil {
			t.Fatal(err)
		}
		session, generation := filepath.Base(filepath.Dir(to)), strings.TrimSuffix(filepath.Base(to), stateExt)
		if err := d.Fetch(t.Context(), session, generation, t.TempDir(), 0); err == nil || !strings.Contains(err.Error(), "not its own") {
			t.Errorf("as that of %s it is %v", session, err)
		}
	}
}

// TestHugeDescription: it is not read to its end.
func TestHugeDescription(t *testing.T) {
	store := t.TempDir()
	d, dir := open(t, store, newKey(t)), t.TempDir()
	if _, err := d.Put(t.Context(), "sesn_1", Parked{Generation: "g"}, dir, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(store, d.name("sesn_1", liveName)), 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, live, err := d.Look(t.Context(), "sesn_1"); live || err == nil {
		t.Errorf("it is %v, %v", live, err)
	}
}

func TestSweep(t *testing.T) {
	store := t.TempDir()
	d, dir := open(t, store, newKey(t)), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		t.Helper()
		for list := d.bucket.List(&blob.ListOptions{}); ; {
			o, err := list.Next(t.Context())
			if err != nil {
				return n
			}
			if path.Base(o.Key) != clockName {
				n++
			}
		}
	}
	size := int64(0)
	for n := range 4 {
		var err error
		if size, err = d.Put(t.Context(), fmt.Sprintf("sesn_%d", n), Parked{Generation: "g"}, dir, 0, []string{"file"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sweep(t.Context(), time.Hour, 1<<30); err != nil || count() != 8 {
		t.Fatalf("%d are left of 8, %v", count(), err)
	}
	if err := d.Sweep(t.Context(), time.Hour, 2*size+400); err != nil || count() >= 8 || count() == 0 {
		t.Errorf("with room for some, %d are left, %v", count(), err)
	}
	// Who is told that there is something to go on from finds it.
	for n := range 4 {
		session := fmt.Sprintf("sesn_%d", n)
		p, live, err := d.Look(t.Context(), session)
		if err == nil && live {
			err = d.Fetch(t.Context(), session, p.Generation, t.TempDir(), 0)
		}
		if err != nil {
			t.Errorf("of %s: %v", session, err)
		}
	}
	if err := d.Sweep(t.Context(), 0, 1<<30); err != nil || count() != 0 {
		t.Errorf("when all are too old, %d are left, %v", count(), err)
	}
}

// TestHoles has a session leave files that are large and take nothing: neither the
// store nor the next worker may be made to pay for them.
func TestHoles(t *testing.T) {
	const size, middle = 8 << 40, 4 << 40
	dir, to := t.TempDir(), t.TempDir()
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nothing", "something"} {
		if err := os.WriteFile(filepath.Join(work, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(work, name), size); err != nil {
			t.Skipf("this file system has no files of that size: %v", err)
		}
	}
	write := func(at int64, text string) {
		f, err := os.OpenFile(filepath.Join(work, "something"), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte(text), at)
		}
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	write(0, "first")
	write(middle, "middle")
	write(size-4, "last")
	d := open(t, t.TempDir(), newKey(t))
	stored, err := d.Put(t.Context(), "sesn_1", Parked{Generation: "one"}, dir, os.Getuid(), []string{"work"})
	if err != nil || stored > 64<<10 {
		t.Fatalf("stored %d bytes, %v", stored, err)
	}
	if err := d.Fetch(t.Context(), "sesn_1", "one", to, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nothing", "something"} {
		info, err := os.Stat(filepath.Join(to, "work", name))
		if err != nil {
			t.Fatal(err)
		}
		if takes := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || takes > 64<<10 {
			t.Errorf("%s is of %d bytes and takes %d", name, info.Size(), takes)
		}
	}
	f, err := os.Open(filepath.Join(to, "work", "something"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, want := range map[int64]string{0: "first\x00", middle: "middle\x00", size - 5: "\x00last", middle / 2: "\x00"} {
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, at); err != nil || string(got) != want {
			t.Errorf("at %d it holds %q, %v", at, got, err)
		}
	}
}

// TestWhatTheWorkerMayNotRead stores files whose modes keep their owner out too, as root
// in a sandbox can have them. They are as they were, here and there.
func TestWhatTheWorkerMayNotRead(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	modes := map[string]fs.FileMode{"work/shut/deep": 0o100, "work/shut/deep/file": 0, "work/shut": 0, "work/written": 0o200}
	check := func(dir string) {
		t.Helper()
		var names []string
		for name := range modes {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			path := filepath.Join(dir, name)
			info, err := os.Lstat(path)
			if err != nil || info.Mode().Perm() != modes[name] {
				t.Fatalf("%s: %v, %v", name, info, err)
			}
			if err := os.Chmod(path, 0o700); err != nil {
				t.Fatal(err)
			}
			if raw, err := os.ReadFile(path); !info.IsDir() && (err != nil || string(raw) != "secret") {
				t.Errorf("%s holds %q, %v", name, raw, err)
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(from, "work/shut/deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"work/shut/deep/file", "work/written"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"work/shut/deep/file", "work/shut/deep", "work/shut", "work/written"} {
		if err := os.Chmod(filepath.Join(from, name), modes[name]); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, t.TempDir(), newKey(t))
	if _, err := d.Put(t.Context(), "sesn_1", Parked{Generation: "one"}, from, 0, []string{"work"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Fetch(t.Context(), "sesn_1", "one", to, 0); err != nil {
		t.Fatal(err)
	}
	check(from)
	check(to)
}
