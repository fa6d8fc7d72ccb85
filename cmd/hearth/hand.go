package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"hearth/internal/hands/sandbox/program"
)

//go:generate env CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o hand/hand-$GOARCH ../hearth-hand

// hands holds the small program that runs in sandboxes, if go generate has built
// it before this program was built.
//
//go:embed all:hand
var hands embed.FS

// handFile is the small program as a file below the state directory; "" where this
// binary has none, and runs in sandboxes itself: that works as well, and takes a
// sandbox longer to start and more memory to keep.
func handFile(stateDir string) (string, error) {
	content, err := hands.ReadFile("hand/hand-" + runtime.GOARCH)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	path, err := program.Unpack(stateDir, content)
	if err != nil {
		return "", fmt.Errorf("unpack the sandboxes' program: %w", err)
	}
	return path, nil
}
