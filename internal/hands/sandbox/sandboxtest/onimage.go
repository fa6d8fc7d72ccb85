package sandboxtest

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hearth/internal/hands/image"
	"hearth/internal/hands/sandbox"
)

// OnImage makes engines whose sandboxes have an image as their root: a small one,
// of the host's own programs, which goes with the test.
func OnImage(t *testing.T, newEngine Maker) Maker {
	t.Helper()
	dir := t.TempDir()
	store, err := image.Open(filepath.Join(dir, "images"), 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "image.tar")
	if err := writeImage(archive); err != nil {
		t.Fatal(err)
	}
	i, err := store.Get(t.Context(), archive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return func(stateDir string) sandbox.Engine {
		e := onImage{newEngine(stateDir), i}
		if parker, ok := e.Engine.(sandbox.Parker); ok {
			return parkerOnImage{e, parker}
		}
		return e
	}
}

type onImage struct {
	sandbox.Engine
	image *image.Image
}

func (e onImage) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec.Root = e.image.Path
	return e.Engine.Create(ctx, spec)
}

type parkerOnImage struct {
	onImage
	parker sandbox.Parker
}

func (e parkerOnImage) Owner(workdir, mnt string) (int, error) { return e.parker.Owner(workdir, mnt) }

func (e parkerOnImage) Restore(ctx context.Context, spec sandbox.Spec, dir string) (sandbox.Sandbox, error) {
	spec.Root = e.image.Path
	return e.parker.Restore(ctx, spec, dir)
}

// programs are what the suite's commands need.
var programs = []string{
	"awk", "bash", "sh", "cat", "cmp", "mktemp", "tar", "xargs", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "flock", "grep", "head", "id", "kill", "ln", "ls", "mkdir", "mkfifo", "mknod",
	"mount", "mv", "nproc", "printf", "ps", "readlink", "rm", "sed", "seq", "setsid", "sha256sum", "sleep", "sort", "stat", "tail", "tee", "timeout", "touch", "tr", "true", "umount", "uname", "wc", "yes",
}

// writeImage writes an image of those programs, and of the libraries they need.
func writeImage(to string) error {
	var raw bytes.Buffer
	w := layerWriter{tar.NewWriter(&raw), map[string]bool{}}
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if target, err := os.Readlink(link); err == nil {
			if err := w.WriteHeader(&tar.Header{Name: link, Linkname: target, Typeflag: tar.TypeSymlink}); err != nil {
				return err
			}
		}
	}
	for _, program := range append(programs, "/etc/passwd", "/etc/group") {
		path, err := exec.LookPath(program)
		if errors.Is(err, exec.ErrNotFound) {
			continue // whatever needs it will fail
		}
		if err != nil {
			path = program // which is not executable
		}
		if err := w.add(path); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil })
	if err != nil {
		return err
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	if err != nil {
		return err
	}
	return tarball.WriteToFile(to, name.MustParseReference("host:programs"), img)
}

// layerWriter writes files of the host into a layer, once.
type layerWriter struct {
	*tar.Writer
	done map[string]bool
}

// add writes a file, under its name in a directory that is no link, and what it
// is linked with.
func (w layerWriter) add(path string) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return err
	}
	path = filepath.Join(dir, filepath.Base(path))
	if w.done[path] {
		return nil
	}
	w.done[path] = true
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm()), Size: int64(len(raw))}); err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	binary, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil // a script
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			interpreter, err := io.ReadAll(p.Open())
			if err != nil {
				return err
			}
			if err := w.add(string(bytes.TrimRight(interpreter, "\x00"))); err != nil {
				return err
			}
		}
	}
	libraries, err := binary.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, l := range libraries {
		if err := w.library(l); err != nil {
			return err
		}
	}
	return nil
}

func (w layerWriter) library(name string) error {
	for _, pattern := range []string{"/lib/*-linux-gnu/", "/usr/lib/*-linux-gnu/", "/lib64/", "/usr/lib64/", "/lib/", "/usr/lib/"} {
		if found, _ := filepath.Glob(pattern + name); len(found) > 0 { // the patterns are well-formed
			return w.add(found[0])
		}
	}
	return fs.ErrNotExist
}

// OfRoots are the scenarios that depend most on where the root comes from.
var OfRoots = []string{
	"bash", "write", "grep", "environment", "workdir", "host files hidden", "host files not written", "install", "network", "privileges", "devices", "scratch that resists removal",
}
