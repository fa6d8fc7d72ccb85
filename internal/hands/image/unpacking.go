package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/klauspost/compress/zstd"
)

// until is a file that is read until a context ends.
type until struct {
	io.ReadCloser
	ctx context.Context
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.ReadCloser.Read(p)
}

// unpacking is an image whose layers, which are compressed where they are, are
// read until a context ends.
type unpacking struct {
	v1.Image
	ctx context.Context
}

func (u unpacking) Layers() ([]v1.Layer, error) {
	layers, err := u.Image.Layers()
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		if layers[i], err = partial.CompressedToLayer(unpackingLayer{l, u.ctx}); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

type unpackingLayer struct {
	v1.Layer
	ctx context.Context
}

// Compressed is what the library decompresses, except that zstd is decompressed
// here: the library would give a layer of some kB as much as 1 GiB of memory.
func (l unpackingLayer) Compressed() (io.ReadCloser, error) {
	content, err := l.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(until{content, l.ctx})
	if !isZstd(in) {
		return reading{in, content}, nil
	}
	d, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		content.Close()
		return nil, err
	}
	return reading{windowed{d}, content}, nil
}

// reading is read in one place and closed in another.
type reading struct {
	io.Reader
	io.Closer
}

func isZstd(in *bufio.Reader) bool {
	magic, _ := in.Peek(4) // fewer where there is no more, or none that can be read
	return bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// maxWindow is how far back a layer in zstd may refer, and about the memory that
// reading it takes, in bytes. No level of the zstd command takes more by itself.
const maxWindow = 128 << 20

// windowed says what is wrong with a layer that refers further back.
type windowed struct{ *zstd.Decoder }

func (w windowed) Read(p []byte) (int, error) {
	n, err := w.Decoder.Read(p)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("%w: at most %d bytes are possible, as with zstd --long=27", err, maxWindow)
	}
	return n, err
}
