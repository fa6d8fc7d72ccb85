package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// oomFile says how readily the kernel ends a process when the host has no memory
// left: from -1000, never, to 1000.
const oomFile = "/proc/self/oom_score_adj"

// Unprotect has this process, and what it starts, be ended as readily as others. An
// engine's first process on the host calls it: what protects a worker is not for what
// runs in its sandboxes.
func Unprotect() error {
	raw, err := os.ReadFile(oomFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	adjustment, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return err
	}
	if adjustment >= 0 {
		return nil
	}
	if err := os.WriteFile(oomFile, []byte("0"), 0); err != nil {
		return fmt.Errorf("take away the worker's protection from want of memory: %w", err)
	}
	return nil
}
