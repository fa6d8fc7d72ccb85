package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"

	"golang.org/x/sys/unix"

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
// sandbox longer to start and more memory to keep. So it is where nothing below the
// state directory can be run.
func handFile(stateDir string, log *slog.Logger) (string, error) {
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
	if err := unix.Access(path, unix.X_OK); err != nil {
		log.Warn("programs cannot be run from the state directory, nor, but with gVisor, from the files of sessions: its file system is mounted noexec, it seems", "dir", stateDir, "error", err)
		return "", nil
	}
	return path, nil
}
