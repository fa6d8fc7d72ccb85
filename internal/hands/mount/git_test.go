package mount

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hearth/api"
)

// elsewhere makes a directory on another file system than those of t.TempDir.
func elsewhere(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "hearth-mount-")
	if err != nil {
		t.Skipf("there is no other file system here: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if device(t, dir) == device(t, t.TempDir()) {
		t.Skip("there is no other file system here: /dev/shm is not one")
	}
	return dir
}

func device(t *testing.T, dir string) uint64 {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(info.Sys().(*syscall.Stat_t).Dev)
}

// gitServer serves a repository, with a program and a link in it, to read.
func gitServer(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	script := `git init -q project && cd project && mkdir -p deep/er && echo one >deep/er/file && echo true >run && chmod +x run && ln -s /etc/passwd link &&
git add . && git -c user.name=t -c user.email=t@example.com commit -qm one && git update-server-info`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a repository: %v: %s", err, out)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL + "/project/.git"
}

// shelf is a server that has one file, and no tokens.
type shelf struct{ *remote }

func (s shelf) Download(context.Context, string) (io.ReadCloser, int64, error) {
	return io.NopCloser(strings.NewReader("a,b\n")), 4, nil
}

// away is a session whose working directory is on another file system.
type away struct {
	t      *testing.T
	m      *Mounter
	work   string
	server Server
}

func newAway(t *testing.T) *away {
	t.Helper()
	a := &away{t: t, work: elsewhere(t), server: shelf{&remote{memories: map[string]string{"fact": "known"}}}}
	if os.Getuid() == 0 { // as the sandboxes of a worker that is root have users of their own
		if err := os.Chown(a.work, 12345, 12346); err != nil {
			t.Fatal(err)
		}
	}
	a.restart()
	return a
}

// restart makes another mounter, as a worker does that has the volume of an earlier one
// and not its state directory.
func (a *away) restart() {
	a.t.Helper()
	m, err := New(Config{Server: a.server, SessionID: "sesn_1", Dir: a.t.TempDir(), Work: a.work, HasToken: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		a.t.Fatal(err)
	}
	a.m = m
}

// repository mounts one, and tells what went wrong.
func (a *away) repository(ctx context.Context, address string) string {
	a.t.Helper()
	return a.sync(ctx, map[string]any{"id": "sesrsc_1", "type": api.ResourceRepository, "url": address, "mount_path": "/workspace/src/repo"})
}

func (a *away) sync(ctx context.Context, resources ...map[string]any) string {
	a.t.Helper()
	var all []json.RawMessage
	for _, r := range resources {
		raw, err := json.Marshal(r)
		if err != nil {
			a.t.Fatal(err)
		}
		all = append(all, raw)
	}
	failures, _ := a.m.Sync(ctx, all)
	var said []string
	for _, f := range failures {
		said = append(said, f.Error())
	}
	return strings.Join(said, "\n")
}

// names are those of the working directory as far as they are in src, Git's own
// left out.
func (a *away) names() string {
	a.t.Helper()
	var names []string
	err := filepath.WalkDir(a.path("src"), func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		names = append(names, strings.TrimPrefix(file, a.work+"/"))
		if entry.Name() == ".git" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func (a *away) path(name string) string { return filepath.Join(a.work, name) }

// passing is what the copy is called on its way.
func (a *away) passing() string { return a.path("src/" + passing + sum([]byte("sesrsc_1"))[:16]) }

const taken = "there is something at /workspace/src/repo already"

const checkedOut = "src src/repo src/repo/.git src/repo/deep src/repo/deep/er src/repo/deep/er/file src/repo/link src/repo/run"

// TestAcrossFileSystems mounts all there is in a working directory on another file
// system than the worker's state directory, as a volume is.
func TestAcrossFileSystems(t *testing.T) {
	a := newAway(t)
	said := a.sync(t.Context(),
		map[string]any{"id": "sesrsc_1", "type": api.ResourceRepository, "url": gitServer(t), "mount_path": "/workspace/src/repo"},
		map[string]any{"id": "sesrsc_2", "type": api.ResourceFile, "file_id": "file_1", "mount_path": "/workspace/data/in.csv"},
		map[string]any{"type": api.ResourceMemory, "memory_store_id": storeID, "access": "read_write", "mount_path": "/workspace/memory/notes"})
	if said != "" {
		t.Fatal(said)
	}
	for name, want := range map[string]string{"data/in.csv": "a,b\n", "memory/notes/fact": "known", "src/repo/deep/er/file": "one\n", "src/repo/run": "true\n"} {
		if raw, err := os.ReadFile(a.path(name)); err != nil || string(raw) != want {
			t.Errorf("%s holds %q, %v", name, raw, err)
		}
	}
	if got := a.names(); got != checkedOut {
		t.Errorf("there is %s", got)
	}
	if target, err := os.Readlink(a.path("src/repo/link")); err != nil || target != "/etc/passwd" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	checkGiven(t, a.path("src"))
	out, err := exec.Command("git", "-c", "safe.directory=*", "-C", a.path("src/repo"), "status", "--porcelain").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("git status: %v: %s", err, out)
	}
}

// TestLargeRepository: one that takes more than the session may have on disk is refused,
// however small what is fetched is.
func TestLargeRepository(t *testing.T) {
	a := newAway(t)
	a.m.Disk = 1000
	said := a.repository(t.Context(), gitServer(t))
	if !strings.HasPrefix(said, "/workspace/src/repo is missing: the repository takes ") || !strings.Contains(said, "the session may have 1000 on disk") {
		t.Errorf("it says %q", said)
	}
	if _, err := os.Lstat(a.path("src/repo")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	a.m.Disk = 10 << 20
	if said := a.repository(t.Context(), gitServer(t)); said != "" {
		t.Errorf("with room it says %q", said)
	}
}

// checkGiven checks that all of a tree is the sandbox's, with the modes Git gives.
func checkGiven(t *testing.T, tree string) {
	t.Helper()
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	err := filepath.WalkDir(tree, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if os.Getuid() == 0 && (stat.Uid != 12345 || stat.Gid != 12346) {
			t.Errorf("%s belongs to %d:%d", file, stat.Uid, stat.Gid)
		}
		if (info.IsDir() || entry.Name() == "run") && info.Mode().Perm() != 0o777&^fs.FileMode(mask) {
			t.Errorf("%s has the mode %v", file, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLeftOver finds what a worker that was killed has left of a copy, and what a
// sandbox has put there in its place: a link to what is none of its own.
func TestLeftOver(t *testing.T) {
	address := gitServer(t)
	for name, leave := range map[string]func(t *testing.T, passing string) error{
		"a tree": func(_ *testing.T, passing string) error {
			return os.MkdirAll(filepath.Join(passing, "deep/er/still"), 0o700)
		},
		"a file": func(_ *testing.T, passing string) error { return os.WriteFile(passing, nil, 0o600) },
		"a link": func(t *testing.T, passing string) error {
			kept := filepath.Join(t.TempDir(), "kept")
			t.Cleanup(func() {
				if entries, err := os.ReadDir(filepath.Dir(kept)); err != nil || len(entries) != 1 {
					t.Errorf("beyond the link there is %v, %v", entries, err)
				}
			})
			return errors.Join(os.WriteFile(kept, nil, 0o600), os.Symlink(filepath.Dir(kept), passing))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAway(t)
			if err := os.Mkdir(a.path("src"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := leave(t, a.passing()); err != nil {
				t.Fatal(err)
			}
			if said := a.repository(t.Context(), address); said != "" {
				t.Error(said)
			}
			if got := a.names(); got != checkedOut {
				t.Errorf("there is %s", got)
			}
		})
	}
}

// TestAcrossLeavesNothing has a copy come to nothing, because something is in its
// place already, or because the worker is told to end. What is an empty directory
// is in no copy's way.
func TestAcrossLeavesNothing(t *testing.T) {
	address := gitServer(t)
	a := newAway(t)
	for _, dir := range []string{"src", "src/repo", "src/repo/own"} {
		if err := os.Mkdir(a.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if said := a.repository(t.Context(), address); !strings.HasSuffix(said, taken) {
		t.Errorf("it says %q", said)
	}
	if got := a.names(); got != "src src/repo src/repo/own" {
		t.Errorf("there is %s", got)
	}
	if err := os.Remove(a.path("src/repo/own")); err != nil {
		t.Fatal(err)
	}

	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(tree, "much"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := a.m.move(ctx, tree, resource{ID: "sesrsc_1", MountPath: "/workspace/src/repo"})
	if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("a copy that was broken off says %v", err)
	}
	if got := a.names(); got != "src src/repo" {
		t.Errorf("there is %s", got)
	}
	if said := a.repository(t.Context(), address); said != "" {
		t.Error(said)
	}
	if got := a.names(); got != checkedOut {
		t.Errorf("there is %s", got)
	}
}

// TestRepositoryKnownAgain mounts a repository that an earlier worker has, in a volume.
// Another resource is not taken for it, nor is a pipe for its mark.
func TestRepositoryKnownAgain(t *testing.T) {
	address := gitServer(t)
	a := newAway(t)
	if said := a.repository(t.Context(), address); said != "" {
		t.Fatal(said)
	}
	if err := os.WriteFile(a.path("src/repo/own"), []byte("work"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.restart()
	if said := a.repository(t.Context(), address); said != "" {
		t.Errorf("the second time it says %q", said)
	}
	if raw, err := os.ReadFile(a.path("src/repo/own")); err != nil || string(raw) != "work" {
		t.Errorf("the session's own is %q, %v", raw, err)
	}

	a.restart()
	other := map[string]any{"id": "sesrsc_2", "type": api.ResourceRepository, "url": address, "mount_path": "/workspace/src/repo"}
	if said := a.sync(t.Context(), other); !strings.HasSuffix(said, taken) {
		t.Errorf("of another resource it says %q", said)
	}
	mark := a.path("src/repo/" + cloneMark)
	if err := errors.Join(os.Remove(mark), syscall.Mkfifo(mark, 0o666)); err != nil {
		t.Fatal(err)
	}
	if said := a.repository(t.Context(), address); !strings.HasSuffix(said, taken) {
		t.Errorf("of a pipe it says %q", said)
	}
}

// TestReplacedCopy looks at directories that a sandbox may have put in the place of the
// one that was made.
func TestReplacedCopy(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only where the worker is root have sandboxes users of their own")
	}
	a := newAway(t)
	for name, c := range map[string]struct {
		uid  int
		mode fs.FileMode
		fits bool
	}{"made": {0, 0o700, true}, "theirs": {12345, 0o700, false}, "open": {0, 0o755, false}} {
		path := a.path(name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, c.mode), os.Chown(path, c.uid, c.uid)); err != nil {
			t.Fatal(err)
		}
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.m.checkOwn(dir); (err == nil) != c.fits {
			t.Errorf("of what is %s it says %v", name, err)
		}
		dir.Close()
	}
}

// TestAcrossUnderAttack copies while the sandbox puts a link to what is not its own in
// the place of the copy, over and over.
func TestAcrossUnderAttack(t *testing.T) {
	a := newAway(t)
	if err := os.Mkdir(a.path("src"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
			}
			if os.Rename(a.passing(), a.path("stolen")) == nil {
				_ = os.Symlink(outside, a.passing()) // which may be late
				_ = os.RemoveAll(a.path("stolen"))
			}
		}
	}()
	for range 30 {
		tree := filepath.Join(t.TempDir(), "tree")
		for _, dir := range []string{"a/b/c", "d/e/f", "g"} {
			if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		// It may fail, and get the wrong thing into its place, all of it the sandbox's own.
		_ = a.m.move(t.Context(), tree, resource{ID: "sesrsc_1", MountPath: "/workspace/src/repo"})
		if err := os.RemoveAll(a.path("src/repo")); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	<-stopped
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("beyond the link there is %v, %v", entries, err)
	}
}
