package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The limits of an image on this host.
const (
	maxIndexes = 32      // of a layout, looked through for an image
	maxFiles   = 100_000 // of an archive
)

// openPath finds an image in an OCI layout, in an archive of one, or in what
// docker save writes.
func (s *Store) openPath(ctx context.Context, ref string) (source, error) {
	info, err := os.Stat(ref)
	if err != nil {
		return source{}, fmt.Errorf("find the image: %w", err)
	}
	if info.IsDir() {
		img, err := fromLayout(ctx, ref)
		if err != nil {
			err = fmt.Errorf("read the image %s: %w", ref, err)
		}
		return source{Image: img, cleanup: func() {}}, err
	}
	if !info.Mode().IsRegular() {
		return source{}, fmt.Errorf("%s is no image: it is neither a file nor a directory", ref)
	}
	saved, savedErr := fromSaved(ctx, ref)
	if savedErr == nil {
		return source{Image: saved, cleanup: func() {}}, nil
	}
	dir, lock, err := s.scratch()
	if err != nil {
		return source{}, err
	}
	src := source{cleanup: func() {
		_ = os.RemoveAll(dir) // what is left goes at the next start
		lock.Close()
	}}
	if err = unpackLayout(ctx, ref, dir, s.limit); err == nil {
		src.Image, err = fromLayout(ctx, dir)
	}
	if err != nil {
		src.cleanup()
		return src, fmt.Errorf("%s is no image: neither what docker save writes (%w) nor an archive of an OCI layout (%w)", ref, savedErr, err)
	}
	return src, nil
}

// fromSaved is the image in what docker save writes. The library reads it several
// times, and what describes the image into memory.
func fromSaved(ctx context.Context, archive string) (v1.Image, error) {
	opener := func() (io.ReadCloser, error) {
		f, err := os.Open(archive)
		// Seeking spares reading what is passed over.
		return struct {
			until
			io.Seeker
		}{until{f, ctx}, f}, err
	}
	sizes, err := sizesIn(opener)
	if err != nil {
		return nil, err
	}
	if err := isDocument(sizes, "manifest.json"); err != nil {
		return nil, err
	}
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, err
	}
	for _, m := range manifest {
		if err := errors.Join(isDocument(sizes, m.Config), tooManyLayers(len(m.Layers))); err != nil {
			return nil, err
		}
	}
	img, err := tarball.Image(opener, nil)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return img, tooManyLayers(len(config.RootFS.DiffIDs))
}

// sizesIn tells how large what an archive has is, in bytes, -1 for what is no file.
// Files with holes are refused: there is no end to what may be read from a small
// archive of them. So is zstd, since the library would decompress it: where docker
// save has any, there is a layout in the archive too.
func sizesIn(opener tarball.Opener) (map[string]int64, error) {
	f, err := opener()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sizes := map[string]int64{}
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return sizes, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		content := bufio.NewReaderSize(in, 16)
		switch {
		case len(name) >= maxPath || len(sizes) > maxFiles:
			return nil, fmt.Errorf("it has more than %d files, or names of more than %d bytes", maxFiles, maxPath-1)
		case isSparse(h):
			return nil, fmt.Errorf("%.200q has holes: write the archive without", name)
		case isZstd(content):
			return nil, fmt.Errorf("%.200q is compressed with zstd: write an OCI archive", name)
		}
		if _, there := sizes[name]; there {
			continue // the library takes the first
		}
		if h.Typeflag != tar.TypeReg {
			h.Size = -1
		}
		sizes[strings.Clone(name)] = h.Size
	}
}

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func isDocument(sizes map[string]int64, name string) error {
	size, there := sizes[path.Clean(name)]
	if !there || size < 0 {
		return fmt.Errorf("it has no file %.200q", name)
	}
	if size > maxDocument {
		return fmt.Errorf("%.200q has %d bytes, at most %d are possible", name, size, maxDocument)
	}
	return nil
}

// unpackLayout unpacks the files of a layout from an archive, which hold at most
// limit bytes.
func unpackLayout(ctx context.Context, archive, dir string, limit int64) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	files, left := 0, limit
	for in := tar.NewReader(until{f, ctx}); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		file := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse || !isOfLayout(file) {
			continue
		}
		files++
		if left -= h.Size; left < 0 || files > maxFiles {
			return fmt.Errorf("%w: its archive holds more than %d files or %d bytes", errLarge, maxFiles, limit)
		}
		if err := unpackFile(ctx, root, file, in); err != nil {
			return err
		}
	}
}

// isOfLayout tells whether a layout has a file of that name.
func isOfLayout(file string) bool {
	blob, err := path.Match("blobs/*/*", file)
	return (blob && err == nil || file == "index.json" || file == "oci-layout") && len(path.Base(file)) <= maxName
}

func unpackFile(ctx context.Context, root *os.Root, file string, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(file), 0o700); err != nil {
		return err
	}
	out, err := root.Create(file)
	if err != nil {
		return err
	}
	// Holes are written without any reading.
	_, err = io.Copy(ending{out, ctx}, content)
	return errors.Join(err, out.Close())
}

// fromLayout chooses the image of this host's platform.
func fromLayout(ctx context.Context, dir string) (v1.Image, error) {
	p, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI layout: %w", filepath.Base(dir), err)
	}
	l := layoutDir{ctx, dir, new(int)}
	if err := l.isFile("index.json", maxDocument); err != nil {
		return nil, err
	}
	index, err := p.ImageIndex()
	if err != nil {
		return nil, err
	}
	img, err := l.choose(index)
	if err == nil && img == nil {
		err = fmt.Errorf("there is no image for %s in it", platform)
	}
	if err != nil {
		return nil, err
	}
	return unpacking{img, ctx}, l.isReadable(img)
}

// layoutDir is a layout being looked through. The library reads what it has into
// memory, whatever its size, and opens what is no file.
type layoutDir struct {
	ctx     context.Context
	dir     string
	indexes *int // that have been looked through
}

func (l layoutDir) isFile(name string, most int64) error {
	info, err := os.Stat(filepath.Join(l.dir, name))
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return fmt.Errorf("%s is no file of at most %d bytes", name, most)
	}
	return nil
}

func (l layoutDir) isBlob(digest v1.Hash, most int64) error {
	return l.isFile(filepath.Join("blobs", digest.Algorithm, digest.Hex), most)
}

// choose finds the first image for this platform in an index, or in one below.
func (l layoutDir) choose(index v1.ImageIndex) (v1.Image, error) {
	if *l.indexes++; *l.indexes > maxIndexes {
		return nil, fmt.Errorf("there are more than %d indexes in it", maxIndexes)
	}
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		isImage := m.MediaType.IsImage() && (m.Platform == nil || m.Platform.Satisfies(platform))
		if !isImage && !m.MediaType.IsIndex() {
			continue
		}
		if err := l.isBlob(m.Digest, maxDocument); err != nil {
			return nil, err
		}
		if isImage {
			return index.Image(m.Digest)
		}
		below, err := index.ImageIndex(m.Digest)
		if err != nil {
			return nil, err
		}
		if img, err := l.choose(below); img != nil || err != nil {
			return img, err
		}
	}
	return nil, nil
}

// isReadable looks at the files of an image.
func (l layoutDir) isReadable(img v1.Image) error {
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	if manifest.Config.Digest == (v1.Hash{}) {
		return errors.New("its manifest names no configuration: it is neither OCI's nor Docker's of schema 2")
	}
	if err := l.isBlob(manifest.Config.Digest, maxDocument); err != nil {
		return err
	}
	for _, layer := range manifest.Layers {
		if err := l.isBlob(layer.Digest, math.MaxInt64); err != nil {
			return err
		}
	}
	return nil
}
