package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// platform is what images are wanted for.
var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

// source is an image where it comes from.
type source struct {
	v1.Image
	received *atomic.Int64 // bytes that have come over the network; nil for an image on this host
	cleanup  func()
}

// isPath tells a file or directory of this host from a name in a registry.
func isPath(ref string) bool {
	return strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../")
}

// open finds an image.
func (s *Store) open(ctx context.Context, ref string) (source, error) {
	if isPath(ref) {
		return s.openPath(ctx, ref)
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return source{}, fmt.Errorf("%.200q is neither a path, which begins with / or ., nor the name of an image: %w", ref, err)
	}
	return s.lookUp(ctx, parsed)
}

// The limits of what describes an image. Those of the manifest and of the
// configuration are what registries commonly take, in bytes.
const (
	maxDocument = 4 << 20
	maxLayers   = 1000
)

// checked is an image of which all parts belong together: the manifest is the one
// that the image's digest is of, the configuration is the one that the manifest
// has the digest of, and each layer, as it is read, is held against the
// configuration. Nothing is believed, wherever it comes from: what is in the cache
// under a digest is taken for what others know by that digest.
type checked struct {
	config *v1.ConfigFile
	layers []v1.Layer // the lowest first
}

func check(img v1.Image, digest v1.Hash) (c checked, err error) {
	raw, err := img.RawManifest()
	if err != nil {
		return c, err
	}
	if err := hasDigest("the manifest", raw, digest); err != nil {
		return c, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return c, fmt.Errorf("read the manifest: %w", err)
	}
	if size := manifest.Config.Size; size < 0 || size > maxDocument {
		return c, fmt.Errorf("its configuration has %d bytes, at most %d are possible", size, maxDocument)
	}
	raw, err = img.RawConfigFile()
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	if err := hasDigest("the configuration", raw, manifest.Config.Digest); err != nil {
		return c, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	layers, err := checkLayers(img, len(manifest.Layers), config.RootFS.DiffIDs)
	return checked{config, layers}, err
}

// The limits of an environment, in bytes: of one variable, which is Linux's own, and
// of all, which leaves room for what a shell is started with besides.
const (
	maxVariable    = 128<<10 - 1
	maxEnvironment = 1 << 20
)

// checkEnv refuses an environment that no program could be started with.
func checkEnv(env []string) error {
	all := 0
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if strings.Contains(v, "\x00") {
			return fmt.Errorf("its variable %.100q has a NUL byte", name)
		}
		if len(v) > maxVariable {
			return fmt.Errorf("its variable %.100q has %d bytes, at most %d are possible", name, len(v), maxVariable)
		}
		if all += len(v); all > maxEnvironment {
			return fmt.Errorf("its variables have more than %d bytes", maxEnvironment)
		}
	}
	return nil
}

// hasDigest holds a document against its digest.
func hasDigest(what string, raw []byte, want v1.Hash) error {
	if len(raw) > maxDocument {
		return fmt.Errorf("%s has %d bytes, at most %d are possible", what, len(raw), maxDocument)
	}
	if err := isKnown(want); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(raw)); got != want.Hex {
		return fmt.Errorf("%s has the digest sha256:%s, and should have %s", what, got, want)
	}
	return nil
}

func isKnown(digest v1.Hash) error {
	if digest.Algorithm != "sha256" {
		return fmt.Errorf("a digest is made by %.20q, which is not known here; sha256 is", digest.Algorithm)
	}
	return nil
}

// tooManyLayers says so if n are.
func tooManyLayers(n int) error {
	if n > maxLayers {
		return fmt.Errorf("the image has %d layers, at most %d are possible", n, maxLayers)
	}
	return nil
}

// checkLayers returns an image's layers, the lowest first. The manifest has n of
// them.
func checkLayers(img v1.Image, n int, digests []v1.Hash) ([]v1.Layer, error) {
	if err := tooManyLayers(n); err != nil {
		return nil, err
	}
	if len(digests) != n {
		return nil, fmt.Errorf("the image has %d layers, and digests of %d", n, len(digests))
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	if len(layers) != n {
		return nil, fmt.Errorf("the image has %d layers, and its manifest %d", len(layers), n)
	}
	for i, l := range layers {
		if err := isKnown(digests[i]); err != nil {
			return nil, err
		}
		layers[i] = checkedLayer{l, digests[i]}
	}
	return layers, nil
}

type checkedLayer struct {
	v1.Layer
	want v1.Hash
}

func (l checkedLayer) Uncompressed() (io.ReadCloser, error) {
	content, err := l.Layer.Uncompressed()
	if err != nil {
		return nil, err
	}
	return &verified{content, sha256.New(), l.want}, nil
}

type verified struct {
	io.ReadCloser
	hash hash.Hash
	want v1.Hash
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.hash.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := fmt.Sprintf("%x", v.hash.Sum(nil)); got != v.want.Hex {
			return n, fmt.Errorf("a layer's content has the digest sha256:%s, and should have %s", got, v.want)
		}
	}
	return n, err
}
