// Package image makes the roots of sandboxes out of OCI images: it finds an image
// in a registry, an archive or a layout directory, flattens it, writes it as one
// EROFS file that all sandboxes share, and keeps those files by the digests of
// their images, up to a size. It owns its cache directory and calls no package of
// ours.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Store is a cache of images. Several processes may use one at once, and each may
// be killed at any time.
type Store struct {
	dir     string
	limit   int64
	log     *slog.Logger
	network network
}

// DefaultLimit is how much a cache holds, in bytes.
const DefaultLimit = 20 << 30

// Open opens the cache in a directory, which is made if need be, and tidies it. It
// holds at most limit bytes, DefaultLimit for 0, but for what is in use.
func Open(dir string, limit int64, log *slog.Logger) (*Store, error) {
	if limit == 0 {
		limit = DefaultLimit
	}
	// Those behind whom a sandbox's kernel runs must be able to read what it holds.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the cache of images: %w", err)
	}
	s := &Store{dir, limit, log, newNetwork()}
	s.tidyLogged()
	return s, nil
}

// Entry is an image in the cache.
type Entry struct {
	// Digest is that of the image's manifest, as sha256:….
	Digest string `json:"digest"`
	// Refs are the names it was asked for by.
	Refs []string `json:"refs"`
	// Size is that of the file system, in bytes.
	Size int64 `json:"size"`
	// Env is the environment that the image sets, as NAME=value.
	Env []string `json:"env"`
	// Bash says that it has a /bin/bash.
	Bash bool `json:"bash"`
	// Used is when it was last asked for.
	Used time.Time `json:"-"`
	// Busy says that a worker has it in use.
	Busy bool `json:"-"`
}

// Image is an image in use: it is not removed before Close, or the end of this
// process.
type Image struct {
	Entry
	// Path is the EROFS file.
	Path string
	lock *os.File
}

// Close ends the use.
func (i *Image) Close() error { return i.lock.Close() }

// Environment is Env as a map.
func (i *Image) Environment() map[string]string {
	env := map[string]string{}
	for _, pair := range i.Env {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			env[name] = value
		}
	}
	return env
}

// Get returns the image that ref stands for now: a name in a registry, or the
// path of an archive or OCI layout, which begins with / or a dot. It is fetched
// unless it is in the cache. Where a registry cannot be reached within half a
// minute, what the name stood for when it last could is taken, with a warning.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) {
	if i := s.pinned(ctx, ref); i != nil {
		return i, nil
	}
	src, err := s.open(ctx, ref)
	if err == nil {
		defer src.cleanup()
		return s.keep(ctx, ref, src)
	}
	if known := s.byRef(ref); known != "" && unreachable(err) && ctx.Err() == nil {
		if i, e := s.use(ctx, known); e == nil {
			s.log.Warn("could not ask the registry about an image; using what is in the cache", "image", ref, "digest", i.Digest, "error", err)
			return i, nil
		}
	}
	return nil, err
}

// pinned returns an image of the cache whose name says which it is.
func (s *Store) pinned(ctx context.Context, ref string) *Image {
	if !strings.Contains(ref, "@sha256:") || isPath(ref) {
		return nil
	}
	i, err := s.use(ctx, s.byRef(ref))
	if err != nil {
		return nil
	}
	return i
}

// keep makes sure that an image is in the cache, and returns it.
func (s *Store) keep(ctx context.Context, ref string, src source) (*Image, error) {
	digest, err := src.Digest()
	if err != nil {
		return nil, fmt.Errorf("read the image %s: %w", ref, err)
	}
	for made := false; ; {
		i, err := s.use(ctx, digest.Hex)
		if err == nil {
			if made {
				s.evict()
			}
			return i, s.name(i, ref)
		}
		if made {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("fetch the image %s: %w", ref, err)
		}
		switch err := s.convert(ctx, ref, digest, src); {
		case err == nil:
			made = true
		case errors.Is(err, ErrBusy):
			wait(ctx)
		default:
			return nil, fmt.Errorf("make a file system of the image %s: %w", ref, err)
		}
	}
}

// use takes an image that is in the cache into use, once nobody is making it.
func (s *Store) use(ctx context.Context, hex string) (*Image, error) {
	if hex == "" {
		return nil, fs.ErrNotExist
	}
	lock, err := s.lock(hex, unix.LOCK_SH)
	for errors.Is(err, ErrBusy) && ctx.Err() == nil {
		wait(ctx)
		lock, err = s.lock(hex, unix.LOCK_SH)
	}
	if err != nil {
		return nil, err
	}
	i := &Image{Path: s.path(hex, imageExt), lock: lock}
	i.Entry, err = s.whole(hex)
	now := time.Now()
	if err == nil {
		err = os.Chtimes(s.path(hex, entryExt), now, now)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return i, nil
}

// lockRetry is about how long to wait for who makes an image between two looks.
const lockRetry = 20 * time.Millisecond

func wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(lockRetry/2 + rand.N(lockRetry)):
	}
}

// convert writes an image as a file system, once, however many ask for it. It
// returns ErrBusy while somebody else does.
func (s *Store) convert(ctx context.Context, ref string, digest v1.Hash, src source) error {
	lock, err := s.lock(digest.Hex, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := s.whole(digest.Hex); err == nil {
		return nil // somebody else has just done it
	}
	img, err := check(src.Image, digest)
	if err != nil {
		return err
	}
	if p := img.config.Platform(); p != nil && !p.Satisfies(platform) {
		return fmt.Errorf("it is for %s, and this host is %s", p, platform)
	}
	if err := checkEnv(img.config.Config.Env); err != nil {
		return err
	}
	s.log.Info("fetching an image", "image", ref, "digest", digest.String(), "size", compressed(src))
	began := time.Now()
	passing := s.path(digest.Hex, passingExt)
	e := Entry{Digest: digest.String(), Env: img.config.Config.Env}
	if err := s.build(ctx, ref, passing, src, img, &e); err != nil {
		_ = os.Remove(passing) // if it is still there, tidy will
		return err
	}
	if err := os.Rename(passing, s.path(digest.Hex, imageExt)); err != nil {
		return err
	}
	s.log.Info("an image is ready", "image", ref, "digest", e.Digest, "size", e.Size, "took", time.Since(began).Round(time.Millisecond))
	changing, err := s.change()
	if err != nil {
		return err
	}
	defer changing.Close()
	return s.write(digest.Hex, e)
}

// build writes the file system.
func (s *Store) build(ctx context.Context, ref, to string, src source, img checked, e *Entry) (err error) {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, err := newWriter(ending{out, ctx})
	if err != nil {
		return err
	}
	t := newTree(s.limit)
	p := &progress{ctx: ctx, log: s.log, ref: ref, src: src, last: time.Now(), limit: s.limit, left: s.limit}
	for _, layer := range img.layers {
		if err := unpack(layer, t, w, p); err != nil {
			return err
		}
	}
	if err := t.furnish(w); err != nil {
		return err
	}
	e.Bash = t.isExecutable("/bin/bash")
	first, err := w.finish(t.root)
	if err != nil {
		return err
	}
	if _, err := out.WriteAt(first, 0); err != nil {
		return err
	}
	e.Size = int64(w.block) << blockBits
	return out.Sync()
}

// compressed is how much there is to fetch, in bytes.
func compressed(img v1.Image) (total int64) {
	manifest, err := img.Manifest()
	if err != nil {
		return 0
	}
	for _, l := range manifest.Layers {
		total += l.Size
	}
	return total
}

// unpack puts a layer upon those below it.
func unpack(layer v1.Layer, t *tree, w *eroWriter, p *progress) error {
	content, err := layer.Uncompressed()
	if err != nil {
		return fmt.Errorf("read a layer: %w", err)
	}
	defer content.Close()
	return t.apply(watched{content, p}, w)
}

// ending is a file that is written until a context ends.
type ending struct {
	io.WriteSeeker
	ctx context.Context
}

func (e ending) Write(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.WriteSeeker.Write(p)
}

// progress is how far an image has been read.
type progress struct {
	ctx   context.Context
	log   *slog.Logger
	ref   string
	src   source
	last  time.Time
	limit int64
	left  int64 // how many bytes its layers may hold still, decompressed
}

// watched is a layer being read. It ends with a context, and when all have held as
// much as the image may take: what is not for the image takes time as well. It
// logs how far a long fetch has come.
type watched struct {
	io.Reader
	*progress
}

// progressEvery is how often a long fetch is logged.
const progressEvery = 5 * time.Second

func (w watched) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.Reader.Read(p)
	if w.left -= int64(n); w.left < 0 {
		return n, fmt.Errorf("%w: its layers hold more than %d bytes", errLarge, w.limit)
	}
	if time.Since(w.last) >= progressEvery {
		w.last = time.Now()
		attributes := []any{"image", w.ref, "unpacked", w.limit - w.left}
		if w.src.received != nil {
			attributes = append(attributes, "received", w.src.received.Load(), "of", compressed(w.src))
		}
		w.log.Info("fetching an image", attributes...)
	}
	return n, err
}
