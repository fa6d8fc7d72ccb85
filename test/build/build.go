// Package build links programs of this module, for tests that run them. It owns
// nothing, and calls no package of ours.
package build

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Link links a package's program into a file, without C libraries, as gVisor needs
// it. Where that is done in a test, changes to what the program is made of have the
// test run again: its result is otherwise kept for as long as its own sources are
// the same.
func Link(ctx context.Context, pkg, to string, flags ...string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	if err := look(strings.TrimSpace(string(root))); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", to}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// look reads every directory of sources, which the go command takes note of.
func look(root string) error {
	for _, dir := range []string{"api", "client", "cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil {
			return fmt.Errorf("look at what programs are made of: %w", err)
		}
	}
	return nil
}
