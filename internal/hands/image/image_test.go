package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// build makes an image of layers, the lowest first, for this host.
func build(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: platform.OS, Architecture: platform.Architecture, Config: v1.Config{Env: []string{"PATH=/opt/bin:/bin", "MODE=test=1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
		if err == nil {
			img, err = mutate.AppendLayers(img, layer)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// hub is a registry that counts what it is asked for.
type hub struct {
	*httptest.Server
	blobs   atomic.Int64 // layers and configurations
	instead atomic.Value // a func(http.ResponseWriter, *http.Request) bool, which tells whether it has answered
}

func newHub(t testing.TB) *hub {
	h := &hub{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			h.blobs.Add(1)
		}
		if instead, ok := h.instead.Load().(func(http.ResponseWriter, *http.Request) bool); ok && instead(w, r) {
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	return h
}

// push makes an image known under a name, which it returns in full.
func (h *hub) push(t testing.TB, as string, img v1.Image) string {
	t.Helper()
	full := strings.TrimPrefix(h.URL, "http://") + "/" + as
	ref, err := name.ParseReference(full)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return full
}

func newStore(t testing.TB, dir string, limit int64) *Store {
	t.Helper()
	s, err := Open(dir, limit, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t testing.TB, s *Store, ref string) *Image {
	t.Helper()
	i, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// files are the regular files of an image as the kernel sees them, without those
// that are in every image.
func files(t testing.TB, i *Image) map[string]string {
	t.Helper()
	root, got := mount(t, i.Path), map[string]string{}
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if info.Mode().IsRegular() && !slices.Contains([]string{Hand, Placeholder, "etc/hosts", "etc/hostname", "etc/resolv.conf"}, rel) {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			got[rel] = string(raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSources(t *testing.T) {
	img := build(t, archive(t, dir("bin"), entry{tar.Header{Name: "bin/bash", Typeflag: tar.TypeReg, Mode: 0o755, Size: 1}, "x"}), archive(t, file("etc/motd", "hello\n")))
	there := t.TempDir()
	layoutDir, saved, oci := filepath.Join(there, "layout"), filepath.Join(there, "saved.tar"), filepath.Join(there, "oci.tar")
	p, err := layout.Write(layoutDir, empty.Index)
	if err == nil {
		// One for another platform comes first.
		other, e := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "other"})
		if e != nil {
			t.Fatal(e)
		}
		err = p.AppendImage(other, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "other"}))
	}
	if err == nil {
		err = p.AppendImage(img, layout.WithPlatform(platform))
	}
	if err == nil {
		err = tarball.WriteToFile(saved, name.MustParseReference("example.com/team/tool:v1"), img)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", layoutDir, "-cf", oci, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	for kind, ref := range map[string]string{"registry": newHub(t).push(t, "team/tool:v1", img), "layout": layoutDir, "docker save": saved, "OCI archive": oci} {
		t.Run(kind, func(t *testing.T) {
			i := get(t, newStore(t, t.TempDir(), 0), ref)
			if got := files(t, i); len(got) != 2 || got["etc/motd"] != "hello\n" {
				t.Errorf("it has %q", got)
			}
			if env := i.Environment(); env["PATH"] != "/opt/bin:/bin" || env["MODE"] != "test=1" || !i.Bash {
				t.Errorf("env %q, bash %v", env, i.Bash)
			}
			want, err := img.Digest()
			if err != nil || kind != "docker save" && i.Digest != want.String() { // which writes another manifest
				t.Errorf("digest %s, want %s, %v", i.Digest, want, err)
			}
		})
	}
}

func TestLayers(t *testing.T) {
	for what, c := range map[string]struct {
		layers [][]entry
		want   map[string]string
	}{
		"whiteout":                {[][]entry{{file("a", "1"), file("d/b", "1"), file("d/c", "1")}, {file(".wh.a", ""), file("d/.wh.b", "")}}, map[string]string{"d/c": "1"}},
		"opaque":                  {[][]entry{{file("d/a", "1"), file("e", "1")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/b", "2")}}, map[string]string{"d/b": "2", "e": "1"}},
		"replaced":                {[][]entry{{file("a", "1")}, {file("a", "2")}}, map[string]string{"a": "2"}},
		"dir by file":             {[][]entry{{file("a/b", "1")}, {file("a", "2")}}, map[string]string{"a": "2"}},
		"through a link":          {[][]entry{{dir("usr/lib"), file("usr/lib/x", "1"), symlink("lib", "usr/lib")}, {file("lib/y", "2"), file("lib/x", "3")}}, map[string]string{"usr/lib/x": "3", "usr/lib/y": "2"}},
		"up and out":              {[][]entry{{symlink("lib", "../../../etc"), file("etc/x", "1")}, {file("lib/y", "2")}}, map[string]string{"etc/x": "1", "etc/y": "2"}},
		"in a circle":             {[][]entry{{symlink("a", "b"), symlink("b", "a")}, {file("a/y", "2")}}, map[string]string{}},
		"link across":             {[][]entry{{file("a", "1")}, {hardlink("b", "a")}}, map[string]string{"a": "1", "b": "1"}},
		"link first":              {[][]entry{{hardlink("b", "a"), file("a", "1")}}, map[string]string{"a": "1", "b": "1"}},
		"devices dropped":         {[][]entry{{{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}, file("a", "1")}}, map[string]string{"a": "1"}},
		"dots":                    {[][]entry{{file("./x/./y", "1"), dir("./")}}, map[string]string{"x/y": "1"}},
		"nothing at all":          {[][]entry{}, map[string]string{}},
		"below a file":            {[][]entry{{file("a", "1"), file("a/b", "2")}}, map[string]string{"a": "1"}},
		"link outlives its file":  {[][]entry{{file("a", "1"), hardlink("b", "a")}, {file(".wh.a", "")}}, map[string]string{"b": "1"}},
		"link outlives a dir":     {[][]entry{{file("d/a", "old"), hardlink("b", "d/a")}, {file(".wh.d", "")}}, map[string]string{"b": "old"}},
		"link to what was":        {[][]entry{{file("a", "old"), hardlink("b", "a")}, {file("a", "new")}}, map[string]string{"a": "new", "b": "old"}},
		"link to what is now":     {[][]entry{{file("a", "old")}, {file("a", "new"), hardlink("b", "a")}}, map[string]string{"a": "new", "b": "new"}},
		"link to a link first":    {[][]entry{{hardlink("c", "b"), hardlink("b", "a"), file("a", "1")}}, map[string]string{"a": "1", "b": "1", "c": "1"}},
		"link through a link":     {[][]entry{{file("usr/a", "1"), symlink("u", "/usr")}, {hardlink("b", "u/a")}}, map[string]string{"usr/a": "1", "b": "1"}},
		"whiteouts first":         {[][]entry{{file("a", "1"), file("d/x", "1")}, {file(".wh.a", ""), file("a", "new"), file(".wh.d", ""), dir("d"), file("d/y", "new")}}, map[string]string{"a": "new", "d/y": "new"}},
		"whiteouts last":          {[][]entry{{file("a", "1"), file("d/x", "1")}, {file("a", "new"), dir("d"), file("d/y", "new"), file(".wh.a", ""), file(".wh.d", "")}}, map[string]string{"a": "new", "d/y": "new"}},
		"opaque last":             {[][]entry{{file("d/a", "1"), file("d/e/a", "1")}, {file("d/b", "2"), file("d/e/b", "2"), file("d/.wh..wh..opq", "")}}, map[string]string{"d/b": "2", "d/e/b": "2"}},
		"opaque twice":            {[][]entry{{file("d/a", "1")}, {file("d/.wh..wh..opq", ""), file("d/b", "2")}, {file("d/.wh..wh..opq", ""), file("d/c", "3")}}, map[string]string{"d/c": "3"}},
		"whiteout of nothing":     {[][]entry{{file(".wh.a", ""), file("x/.wh.a", ""), file("b/.wh..", ""), file("b/c", "1")}}, map[string]string{"b/c": "1"}},
		"whiteout of a link":      {[][]entry{{file("usr/a", "1"), symlink("u", "usr")}, {file(".wh.u", ""), file("u/b", "2")}}, map[string]string{"usr/a": "1", "u/b": "2"}},
		"dir by link":             {[][]entry{{file("d/a", "1")}, {symlink("d", "e"), file("e/b", "2")}}, map[string]string{"e/b": "2"}},
		"link by dir":             {[][]entry{{file("usr/a", "1"), symlink("u", "usr")}, {dir("u"), file("u/b", "2")}}, map[string]string{"usr/a": "1", "u/b": "2"}},
		"link by file":            {[][]entry{{file("a", "1"), symlink("b", "a")}, {file("b", "2")}}, map[string]string{"a": "1", "b": "2"}},
		"file by dir":             {[][]entry{{file("a", "1")}, {file("a/b", "2")}}, map[string]string{"a/b": "2"}},
		"twice in one layer":      {[][]entry{{file("a", "1"), file("a", "2")}}, map[string]string{"a": "2"}},
		"below a link to nothing": {[][]entry{{symlink("a", "b/c")}, {file("a/d", "1")}}, map[string]string{"b/c/d": "1"}},
		"tmp is a symlink":        {[][]entry{{symlink("tmp", "var/tmp"), symlink("dev", "/etc"), file("var/tmp/x", "1")}}, map[string]string{"var/tmp/x": "1"}},
	} {
		t.Run(what, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			got := files(t, get(t, newStore(t, t.TempDir(), 0), newHub(t).push(t, "x:y", build(t, layers...))))
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("it has %q, want %q", got, c.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	h := newHub(t)
	other, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "other"})
	if err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ ref, want string }{
		"a name that leads out": {h.push(t, "a:a", build(t, archive(t, file("../x", "1")))), "unsafe"},
		"a link that leads out": {h.push(t, "a:i", build(t, archive(t, hardlink("b", "../a")))), "unsafe"},
		"a link to nothing":     {h.push(t, "a:b", build(t, archive(t, hardlink("b", "a")))), "does not have"},
		"links in a circle":     {h.push(t, "a:c", build(t, archive(t, hardlink("b", "a"), hardlink("a", "b")))), "does not have"},
		"too large":             {h.push(t, "a:d", build(t, archive(t, file("big", strings.Repeat("x", 2<<20))))), "too large"},
		"a long name":           {h.push(t, "a:e", build(t, archive(t, file(strings.Repeat("n", 256), "")))), "at most 255"},
		"a file at /workspace":  {h.push(t, "a:f", build(t, archive(t, file("workspace", "")))), "something else at /workspace"},
		"another platform":      {h.push(t, "a:h", other), "linux/other"},
		"not there":             {strings.TrimPrefix(h.URL, "http://") + "/none:none", "look up the image"},
		"no name":               {"a b", "neither a path"},
		"no file":               {"./absent.tar", "absent.tar"},
		"no archive":            {text, "is no image"},
		"no layout":             {t.TempDir(), "no OCI layout"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s := newStore(t, dir, 1<<20)
			i, err := s.Get(t.Context(), c.ref)
			if err == nil {
				i.Close()
				t.Fatal("it is taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v, want %q in it", err, c.want)
			}
			if entries, err := s.List(); len(entries) != 0 || err != nil {
				t.Errorf("the cache has %v, %v", entries, err)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*.[en]*"))
			if len(left) > 0 {
				t.Errorf("left are %q", left)
			}
		})
	}
}

// TestEnvironment: no program could be started with these.
func TestEnvironment(t *testing.T) {
	many := make([]string, 20)
	for i := range many {
		many[i] = fmt.Sprint("A", i, "=", strings.Repeat("x", 100_000))
	}
	for want, env := range map[string][]string{
		`"A" has a NUL byte`:   {"A=x\x00y"},
		`"A" has 200002 bytes`: {"A=" + strings.Repeat("x", 200_000)},
		"more than":            many,
	} {
		img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: platform.OS, Architecture: platform.Architecture, Config: v1.Config{Env: env}})
		if err != nil {
			t.Fatal(err)
		}
		if i, err := newStore(t, t.TempDir(), 0).Get(t.Context(), newHub(t).push(t, "a:b", img)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it is %v, %v, want %q", i, err, want)
		}
	}
}

// TestOwners: what belongs to no user of a sandbox belongs to its nobody, in whom its
// root has rights.
func TestOwners(t *testing.T) {
	owned := func(name string, id int) entry {
		e := file(name, "")
		e.Uid, e.Gid = id, id
		return e
	}
	layer := archive(t, owned("last", 65535), owned("beyond", 65536), owned("wraps", 1<<32), owned("huge", 99_999_999_999), owned("invalid", 1<<32-1))
	root := mount(t, get(t, newStore(t, t.TempDir(), 0), newHub(t).push(t, "a:b", build(t, layer))).Path)
	for name, want := range map[string]uint32{"last": 65535, "beyond": 65534, "wraps": 65534, "huge": 65534, "invalid": 65534} {
		var info syscall.Stat_t
		if err := syscall.Stat(filepath.Join(root, name), &info); err != nil || info.Uid != want || info.Gid != want {
			t.Errorf("%s belongs to %d:%d, want %d, %v", name, info.Uid, info.Gid, want, err)
		}
	}
}

// TestHostile has images that are small to fetch and were not small to unpack.
func TestHostile(t *testing.T) {
	many := func(n int, one func(int) entry) (all []entry) {
		for i := range n {
			all = append(all, one(i))
		}
		return all
	}
	for what, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"deep whiteouts":   {many(2, func(i int) entry { return file(strings.Repeat("n/", 450_000)+fmt.Sprint(".wh.", i), "") }), "at most 4095"},
		"long whiteouts":   {many(3, func(i int) entry { return file(fmt.Sprint(".wh.", i, strings.Repeat("n", 900_000)), "") }), "at most 4095"},
		"tiny files":       {many(300, func(i int) entry { return file(fmt.Sprint(i), "x") }), "too large"},
		"empty files":      {many(3000, func(i int) entry { return file(fmt.Sprint(i), "") }), "too large"},
		"long links":       {many(150, func(i int) entry { return symlink(fmt.Sprint(i), strings.Repeat("x", 4090)) }), "too large"},
		"deep directories": {many(3, func(i int) entry { return file(fmt.Sprint(i, "/", strings.Repeat("n/", 2000), "x"), "") }), "too large"},
		"full whiteouts":   {many(3, func(i int) entry { return file(fmt.Sprint(".wh.", i), strings.Repeat("x", 1<<19)) }), "too large"},
	} {
		t.Run(what, func(t *testing.T) {
			i, err := newStore(t, t.TempDir(), 1<<20).Get(t.Context(), newHub(t).push(t, "a:b", build(t, archive(t, c.entries...))))
			if err == nil {
				i.Close()
				t.Fatal("it is taken")
			}
			if !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
				t.Errorf("it says %.2000v, want %q in it", err, c.want)
			}
		})
	}
}

// TestChain is of hard links each of which is to the next, the file at its end.
func TestChain(t *testing.T) {
	const n = 100_000
	var chain []entry
	for i := range n {
		chain = append(chain, hardlink(fmt.Sprint(i), fmt.Sprint(i+1)))
	}
	chain = append(chain, file(fmt.Sprint(n), "1"))
	i := get(t, newStore(t, t.TempDir(), 0), newHub(t).push(t, "a:b", build(t, archive(t, chain...))))
	var first syscall.Stat_t
	if err := syscall.Stat(filepath.Join(mount(t, i.Path), "0"), &first); err != nil || first.Nlink != n+1 {
		t.Errorf("the first has %d links, %v", first.Nlink, err)
	}
}

// TestCounted takes a tree to where it may take no more.
func TestCounted(t *testing.T) {
	for what, to := range map[string]func(*tree){
		"entries": func(t *tree) { t.entries = maxEntries - 2 },
		"text":    func(t *tree) { t.text = maxText - 5 },
		"links":   func(t *tree) { t.text = maxText - 25 },
		"walks":   func(t *tree) { t.walks = maxWalks - 25 },
	} {
		w, err := newWriter(discard{})
		if err != nil {
			t.Fatal(err)
		}
		tree := newTree(1 << 20)
		to(tree)
		raw := archive(t, symlink("to", "."), file("to/to/to/to/x", ""), file("a/b/c/d/e", ""), hardlink("a/long/name", "another/long/name"))
		if err := tree.apply(bytes.NewReader(raw), w); !errors.Is(err, errLarge) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func (discard) Seek(int64, int) (int64, error) { return 0, nil }

// TestTampered changes a layer where it is stored.
func TestTampered(t *testing.T) {
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	good, bad := archive(t, file("a", "good")), archive(t, file("a", "evil"))
	img := build(t, good)
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest.Hex), bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if i, err := newStore(t, t.TempDir(), 0).Get(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("it is %v, %v", i, err)
	}
}

// TestForged pairs the manifest of an image that others trust with another
// configuration and layer. What a cache has under a digest is what that digest is
// of, whoever brought it.
func TestForged(t *testing.T) {
	h, evil := newHub(t), archive(t, file("a", "evil"))
	img := build(t, archive(t, file("a", "good")))
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	pinned := strings.TrimSuffix(h.push(t, "a:b", img), ":b") + "@" + digest.String()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.RootFS.DiffIDs = []v1.Hash{{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(evil))}}
	forged, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for digest, content := range map[v1.Hash][]byte{manifest.Config.Digest: forged, manifest.Layers[0].Digest: zipped(t, evil)} {
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest.Hex), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t, t.TempDir(), 0)
	if i, err := s.Get(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "the configuration has the digest") {
		t.Errorf("the forged one is %v, %v", i, err)
	}
	if got := files(t, get(t, s, pinned)); got["a"] != "good" {
		t.Errorf("by its digest it has %q", got)
	}
}

func zipped(t testing.TB, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(raw)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestConvertedOnce has many ask for one image at once, through several stores as
// several processes would.
func TestConvertedOnce(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	ref := h.push(t, "a:b", build(t, archive(t, file("a", strings.Repeat("x", 1<<20)))))
	h.blobs.Store(0)
	var all sync.WaitGroup
	for range 8 {
		s := newStore(t, dir, 0)
		all.Go(func() { get(t, s, ref) })
	}
	all.Wait()
	// Each may look at the configuration; the layer is fetched once.
	if n := h.blobs.Load(); n > 9 {
		t.Errorf("%d blobs were fetched", n)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// TestUsersAreNotWaitedFor: who finds, about to make an image, that somebody else
// has made it meanwhile, does not wait until nobody uses that.
func TestUsersAreNotWaitedFor(t *testing.T) {
	h, s := newHub(t), newStore(t, t.TempDir(), 0)
	ref := h.push(t, "a:b", build(t, archive(t, file("a", "1"))))
	get(t, s, ref)
	src, err := s.open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer src.cleanup()
	digest, err := src.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.convert(t.Context(), ref, digest, src); !errors.Is(err, ErrBusy) {
		t.Errorf("to make what is in use: %v", err)
	}
	get(t, s, ref)
}

func TestRegistryGone(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	img := build(t, archive(t, file("a", "1")))
	tag := h.push(t, "a:b", img)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	pinned := strings.TrimSuffix(tag, ":b") + "@" + digest.String()
	s := newStore(t, dir, 0)
	get(t, s, tag)
	get(t, s, pinned)
	h.push(t, "a:b", build(t, archive(t, file("a", "2"))))
	if got := files(t, get(t, s, tag)); got["a"] != "2" {
		t.Errorf("after the name has moved it has %q", got)
	}
	h.Close()
	if got := files(t, get(t, s, tag)); got["a"] != "2" {
		t.Errorf("without the registry, by name: %q", got)
	}
	if got := files(t, get(t, s, pinned)); got["a"] != "1" {
		t.Errorf("without the registry, by digest: %q", got)
	}
}

// TestRegistrySilent has an image in the cache whose registry has come to take
// connections and say nothing.
func TestRegistrySilent(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	ref := h.push(t, "a:b", build(t, archive(t, file("a", "1"))))
	get(t, newStore(t, dir, 0), ref)
	h.Close()
	silent, err := net.Listen("tcp", strings.TrimPrefix(h.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var logged bytes.Buffer
	s, err := Open(dir, 0, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.network.lookUp = 50 * time.Millisecond
	if got := files(t, get(t, s, ref)); got["a"] != "1" {
		t.Errorf("it has %q", got)
	}
	if !strings.Contains(logged.String(), "the registry is silent") {
		t.Errorf("logged is %s", logged.String())
	}
}

// TestRegistryStalls has a registry send half a layer and then nothing.
func TestRegistryStalls(t *testing.T) {
	h := newHub(t)
	img := build(t, archive(t, file("a", random(1<<20))))
	ref := h.push(t, "a:b", img)
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	h.instead.Store(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, manifest.Layers[0].Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", strconv.FormatInt(manifest.Layers[0].Size, 10))
		w.Write([]byte("\x1f\x8b\x08"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	s := newStore(t, t.TempDir(), 0)
	s.network.silence = 50 * time.Millisecond
	if i, err := s.Get(t.Context(), ref); !errors.Is(err, errSilent) {
		t.Errorf("it is %v, %v", i, err)
	}
}

func random(n int) string {
	text := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(text)
	return string(text)
}

// TestRegistryRefuses: what a registry says of an image counts, whatever is in the
// cache.
func TestRegistryRefuses(t *testing.T) {
	h := newHub(t)
	ref, s := h.push(t, "a:b", build(t, archive(t, file("a", "1")))), newStore(t, t.TempDir(), 0)
	get(t, s, ref)
	for status, want := range map[int]string{401: "docker login 127.0.0.1:", 403: "docker login 127.0.0.1:", 404: "push the image"} {
		h.instead.Store(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(status)
				return true
			}
			return false
		})
		if i, err := s.Get(t.Context(), ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("after %d it is %v, %v", status, i, err)
		}
	}
	if !unreachable(fmt.Errorf("x: %w", &transport.Error{StatusCode: 503})) {
		t.Error("a registry that cannot answer now counts as reached")
	}
}

// TestPlainHTTP: only what is on the loopback is spoken to without TLS.
func TestPlainHTTP(t *testing.T) {
	h := newHub(t)
	local := h.push(t, "a:b", build(t, archive(t, file("a", "1"))))
	s := newStore(t, t.TempDir(), 0)
	s.network.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(h.URL, "http://"))
	}
	var asked atomic.Int64
	h.instead.Store(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.Host, "127.0.0.1:") {
			asked.Add(1)
		}
		return false
	})
	i := get(t, s, local)
	for _, host := range []string{"10.1.2.3:5000", "172.16.1.2", "192.168.1.2:80"} {
		if err := s.name(i, host+"/a:b"); err != nil { // as if it had been had from there
			t.Fatal(err)
		}
		if i, err := s.Get(t.Context(), host+"/a:b"); !errors.Is(err, errPlain) {
			t.Errorf("from %s it is %v, %v", host, i, err)
		}
	}
	h.instead.Store(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			http.Redirect(w, r, "http://registry.example"+r.URL.Path, http.StatusFound)
			return true
		}
		return false
	})
	if i, err := newStore(t, t.TempDir(), 0).Get(t.Context(), local); !errors.Is(err, errPlain) {
		t.Errorf("sent elsewhere it is %v, %v", i, err)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the registry was asked %d times", n)
	}
	h.Close()
	get(t, s, "10.1.2.3:5000/a:b") // which is not there now
}

func TestEviction(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	s := newStore(t, dir, 3<<20)
	var refs []string
	for n := range 4 {
		refs = append(refs, h.push(t, fmt.Sprintf("a:v%d", n), build(t, archive(t, file("a", strings.Repeat(fmt.Sprint(n), 1<<20))))))
	}
	held := get(t, s, refs[0])
	for _, ref := range refs[1:] {
		i, err := s.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		i.Close()
	}
	entries, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Refs...)
	}
	// The last one always is; the first is in use; what was between them had to go.
	if !slices.Contains(have, refs[0]) || !slices.Contains(have, refs[3]) || len(have) > 3 {
		t.Errorf("left are %q", have)
	}
	if err := s.Remove(refs[0]); err != ErrBusy {
		t.Errorf("to remove what is in use: %v", err)
	}
	held.Close()
	if err := s.Remove(refs[0]); err != nil {
		t.Error(err)
	}
	if err := s.Remove(refs[0]); err == nil {
		t.Error("it is removed twice")
	}
	if err := s.Remove("../../etc"); err == nil {
		t.Error("a path is removed")
	}
	if freed, err := s.Prune(); err != nil || freed < 1<<20 {
		t.Errorf("pruning freed %d, %v", freed, err)
	}
}

// TestCrashed has what a process leaves that is killed as it makes or removes an
// image, and what one of before left of an image that it named as it was removed.
func TestCrashed(t *testing.T) {
	for what, crash := range map[string]func(s *Store, hex string) error{
		"an image without an entry": func(s *Store, hex string) error { return os.Remove(s.path(hex, entryExt)) },
		"an entry without an image": func(s *Store, hex string) error { return os.Remove(s.path(hex, imageExt)) },
		"an entry cut short":        func(s *Store, hex string) error { return os.Truncate(s.path(hex, entryExt), 5) },
	} {
		t.Run(what, func(t *testing.T) {
			h, dir := newHub(t), t.TempDir()
			ref, s := h.push(t, "a:b", build(t, archive(t, file("a", "1")))), newStore(t, dir, 0)
			i, err := s.Get(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(i.Close(), crash(s, hexOf(i.Digest))); err != nil {
				t.Fatal(err)
			}
			if got := files(t, get(t, s, ref)); got["a"] != "1" {
				t.Errorf("thereafter it has %q", got)
			}
		})
		t.Run(what+" that nobody asks for", func(t *testing.T) {
			h, dir := newHub(t), t.TempDir()
			s := newStore(t, dir, 0)
			i, err := s.Get(t.Context(), h.push(t, "a:b", build(t, archive(t, file("a", "1")))))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(i.Close(), crash(s, hexOf(i.Digest))); err != nil {
				t.Fatal(err)
			}
			newStore(t, dir, 0)
			if left := leftIn(t, dir); len(left) > 0 {
				t.Errorf("left are %q", left)
			}
		})
	}
}

// leftIn is what a cache's directory has besides locks.
func leftIn(t testing.TB, dir string) (left []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if filepath.Ext(f.Name()) != lockExt {
			left = append(left, f.Name())
		}
	}
	return left
}

// TestTidied: what is being made when another process starts stays; what is left
// of killed ones goes, in whatever directory.
func TestTidied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "odd [dir")
	s := newStore(t, dir, 0)
	ref := newHub(t).push(t, "a:b", build(t, archive(t, file("a", "1"))))
	i := get(t, s, ref)
	made, lock, err := s.scratch()
	if err != nil {
		t.Fatal(err)
	}
	making, err := s.lock(strings.Repeat("1", 64), unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{strings.Repeat("1", 64) + passingExt, strings.Repeat("2", 64) + passingExt, "entry-1", "layout-1/x"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	newStore(t, dir, 0)
	want := []string{filepath.Base(made), strings.Repeat("1", 64) + passingExt, hexOf(i.Digest) + imageExt, hexOf(i.Digest) + entryExt}
	slices.Sort(want)
	if left := leftIn(t, dir); !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	if entries, err := s.List(); len(entries) != 1 || err != nil {
		t.Errorf("the cache has %v, %v", entries, err)
	}
	if err := errors.Join(lock.Close(), making.Close(), i.Close()); err != nil {
		t.Fatal(err)
	}
	newStore(t, dir, 0)
	if left := leftIn(t, dir); len(left) != 2 {
		t.Errorf("then left are %q", left)
	}
}

// TestNamedAtOnce has one image get many names from several stores, and removes
// another that had them before meanwhile.
func TestNamedAtOnce(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	img, before := build(t, archive(t, file("a", "1"))), build(t, archive(t, file("a", "2")))
	s := newStore(t, dir, 0)
	var refs []string
	for n := range 8 {
		ref := h.push(t, fmt.Sprintf("a:v%d", n), before)
		i, err := s.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		i.Close()
		h.push(t, fmt.Sprintf("a:v%d", n), img)
		refs = append(refs, ref)
	}
	digest, err := before.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, ref := range refs {
		s := newStore(t, dir, 0)
		all.Go(func() {
			i, err := s.Get(t.Context(), ref)
			if err != nil {
				t.Error(err)
				return
			}
			i.Close()
		})
	}
	all.Go(func() { _ = s.Remove(digest.String()) }) // unless it is being listed
	all.Wait()
	entries, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		slices.Sort(e.Refs)
		if e.Digest == digest.String() && len(e.Refs) > 0 || e.Digest != digest.String() && !slices.Equal(e.Refs, refs) {
			t.Errorf("%s has the names %q", e.Digest, e.Refs)
		}
	}
	if i := get(t, s, h.push(t, "a:again", before)); i.Digest != digest.String() {
		t.Errorf("what was removed is %s", i.Digest)
	}
}

// ends is a context that ends when it has been asked a number of times.
type ends struct {
	context.Context
	left atomic.Int64
}

func (e *ends) Err() error {
	if e.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestEnds stops at every point of reading an image on this host, and of writing
// what becomes of it.
func TestEnds(t *testing.T) {
	img := build(t, archive(t, file("a", strings.Repeat("x", 3<<20))), archive(t, file(".wh.a", "")))
	for kind, ref := range onDisk(t, img) {
		t.Run(kind, func(t *testing.T) {
			s := newStore(t, t.TempDir(), 0)
			for n := int64(0); ; n++ {
				ctx := &ends{Context: t.Context()}
				ctx.left.Store(n)
				i, err := s.Get(ctx, ref)
				var all bytes.Buffer
				if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(all.String(), "go-containerregistry") {
					t.Fatalf("asked %d times, goroutines are left:\n%s", n, all.String())
				}
				if err == nil {
					i.Close()
					if n < 10 {
						t.Errorf("the context was looked at %d times only", n)
					}
					return
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("asked %d times: %v", n, err)
				}
			}
		})
	}
}

// onDisk writes an image as all that can be on this host.
func onDisk(t testing.TB, img v1.Image) map[string]string {
	t.Helper()
	there := t.TempDir()
	dir, saved := filepath.Join(there, "layout"), filepath.Join(there, "saved.tar")
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err == nil {
		err = tarball.WriteToFile(saved, name.MustParseReference("example.com/team/tool:v1"), img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"layout": dir, "docker save": saved, "OCI archive": tarred(t, dir)}
}

// tarred packs a directory, files with holes as such.
func tarred(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "packed.tar")
	if out, err := exec.Command("tar", "--format=posix", "-S", "-C", dir, "-cf", to, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return to
}

// TestHostileFiles has layouts and archives that are small on this host, and were
// not small to read.
func TestHostileFiles(t *testing.T) {
	img := build(t, archive(t, file("a", "1")))
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	config, layer := manifest.Config.Digest, manifest.Layers[0].Digest
	holes := func(file string) error {
		return errors.Join(os.Remove(file), os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<40))
	}
	blob := func(dir string, digest v1.Hash) string { return filepath.Join(dir, "blobs", "sha256", digest.Hex) }
	loop := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":1,"digest":"%s"}]}`, layer)
	for what, c := range map[string]struct {
		change  func(dir string) error
		archive bool
		want    string
	}{
		"index":         {func(dir string) error { return holes(filepath.Join(dir, "index.json")) }, false, "no file of at most"},
		"manifest":      {func(dir string) error { return holes(blob(dir, digest)) }, false, "no file of at most"},
		"configuration": {func(dir string) error { return holes(blob(dir, config)) }, false, "no file of at most"},
		"pipe": {func(dir string) error {
			return errors.Join(os.Remove(blob(dir, layer)), unix.Mkfifo(blob(dir, layer), 0o600))
		}, false, "no file of at most"},
		"index in a circle": {func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), []byte(loop), 0o600), os.WriteFile(blob(dir, layer), []byte(loop), 0o600))
		}, false, "more than 32 indexes"},
		"manifest of schema 1": {func(dir string) error {
			manifest := []byte(`{"schemaVersion":1,"name":"x","fsLayers":[]}`)
			digest := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(manifest))}
			index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"%s"}]}`, digest)
			return errors.Join(os.WriteFile(blob(dir, digest), manifest, 0o600), os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o600))
		}, false, "names no configuration"},
		"archived layer": {func(dir string) error { return holes(blob(dir, layer)) }, true, "too large"},
		"saved configuration": {func(dir string) error {
			saved := fmt.Sprintf(`[{"Config":"blobs/sha256/%s","Layers":["blobs/sha256/%s"]}]`, config.Hex, layer.Hex)
			return errors.Join(os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(saved), 0o600), holes(blob(dir, config)))
		}, true, "has holes"},
		"saved configuration behind a link": {func(dir string) error {
			saved := fmt.Sprintf(`[{"Config":"link","Layers":["blobs/sha256/%s"]}]`, layer.Hex)
			return errors.Join(os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(saved), 0o600), os.Symlink("blobs/sha256/"+config.Hex, filepath.Join(dir, "link")), os.Remove(filepath.Join(dir, "index.json")))
		}, true, `no file "link"`},
		"saved layers": {func(dir string) error {
			saved := fmt.Sprintf(`[{"Config":"blobs/sha256/%s","Layers":["x"%s]}]`, config.Hex, strings.Repeat(`,"x"`, maxLayers))
			return errors.Join(os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(saved), 0o600), os.Remove(filepath.Join(dir, "index.json")))
		}, true, "at most 1000"},
	} {
		t.Run(what, func(t *testing.T) {
			ref := onDisk(t, img)["layout"]
			if err := c.change(ref); err != nil {
				t.Fatal(err)
			}
			if c.archive {
				ref = tarred(t, ref)
			}
			dir := t.TempDir()
			i, err := newStore(t, dir, 1<<20).Get(t.Context(), ref)
			if err == nil {
				i.Close()
				t.Fatal("it is taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v, want %q in it", err, c.want)
			}
			if left := leftIn(t, dir); len(left) > 0 {
				t.Errorf("left are %q", left)
			}
		})
	}
}

// TestZstd has layers compressed otherwise than go-containerregistry would.
func TestZstd(t *testing.T) {
	raw := archive(t, file("a", "1"))
	img := build(t, raw)
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := "blobs/sha256/" + manifest.Layers[0].Digest.Hex
	with := func(content []byte) (dir string) {
		dir = onDisk(t, img)["layout"]
		saved := fmt.Sprintf(`[{"Config":"blobs/sha256/%s","Layers":[%q]}]`, manifest.Config.Digest.Hex, layer)
		if err := errors.Join(os.WriteFile(filepath.Join(dir, layer), content, 0o600), os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(saved), 0o600)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := with(w.EncodeAll(raw, nil))
	// The header of a frame with a window of 512 MiB, and the last block, which is empty.
	hostile := with([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3, 1, 0, 0})
	for _, ref := range []string{good, tarred(t, good)} {
		if got := files(t, get(t, newStore(t, t.TempDir(), 0), ref)); got["a"] != "1" {
			t.Errorf("%s has %q", ref, got)
		}
	}
	for _, ref := range []string{hostile, tarred(t, hostile)} {
		if i, err := newStore(t, t.TempDir(), 0).Get(t.Context(), ref); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
			t.Errorf("%s is %v, %v", ref, i, err)
		}
	}
}

// TestHandIsNoLink: what an image has where the hand goes leads nowhere else.
func TestHandIsNoLink(t *testing.T) {
	layer := archive(t, symlink(Hand, "workspace/x"), symlink(Placeholder, "/etc/x"), file("workspace/x", "1"), file("etc/x", "2"))
	root := mount(t, get(t, newStore(t, t.TempDir(), 0), newHub(t).push(t, "a:b", build(t, layer))).Path)
	for _, name := range []string{Hand, Placeholder} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.Mode().IsRegular() || info.Size() > 0 {
			t.Errorf("%s is %v, %v", name, info, err)
		}
	}
}

// TestCancelled stops in the middle, and begins again.
func TestCancelled(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	ref := h.push(t, "a:b", build(t, archive(t, file("a", strings.Repeat("x", 8<<20)))))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newStore(t, dir, 0)
	if _, err := s.Get(ctx, ref); err == nil {
		t.Fatal("it is there")
	}
	// What a killed process would have left.
	digest := strings.Repeat("0", 64)
	if err := os.WriteFile(filepath.Join(dir, digest+".new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, s, ref)
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}
