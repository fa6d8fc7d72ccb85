package sandbox

import (
	"fmt"
	"strings"
)

// Limits are the resource bounds of one sandbox; zero fields are unlimited.
type Limits struct {
	MemoryBytes int64
	// CPUs is how many processors' time may be used, for example 0.5.
	CPUs      float64
	Processes int
	OpenFiles int // of one process
	// DiskBytes bounds the working directory and the scratch files together.
	// They are measured now and then, so it may be exceeded for a moment.
	DiskBytes int64
}

// Bounds hold a sandbox to its limits from outside.
type Bounds interface {
	// Hits tells how often limits have been run into.
	Hits() Hits
	// Freeze stops every process where it is, or lets all go on.
	Freeze(frozen bool) error
}

// Hits counts how often a sandbox has run into its limits.
type Hits struct{ Memory, Processes int64 }

// LimitError tells which limit ended a call, or a sandbox.
type LimitError struct {
	Limit string
	Then  string // what came of it, or what to do; may be empty
}

func (e *LimitError) Error() string {
	text := "the sandbox reached its limit of " + e.Limit
	if e.Then != "" {
		text += "; " + e.Then
	}
	return text
}

// since tells which limit has been hit since before, nil for none.
func (l Limits) since(before, now Hits) *LimitError {
	switch {
	case now.Memory > before.Memory:
		return &LimitError{size(l.MemoryBytes) + " of memory", "a process was ended for it"}
	case now.Processes > before.Processes:
		return &LimitError{fmt.Sprintf("%d processes", l.Processes), "more could not be started"}
	}
	return nil
}

// guess names the limit that a program which says that has probably reached, nil for
// none: where the limit is the sandbox's own kernel's, nobody else is told of it. Full
// tells whether the files take about as much as they may: it may be the host's disk.
func (l Limits) guess(said string, full func() bool) *LimitError {
	switch {
	case l.Processes > 0 && (strings.Contains(said, "Resource temporarily unavailable") || strings.Contains(said, "Cannot fork")): // EAGAIN, and dash
		return &LimitError{Limit: fmt.Sprintf("%d processes", l.Processes)}
	case l.OpenFiles > 0 && strings.Contains(said, "Too many open files"): // EMFILE
		return &LimitError{Limit: fmt.Sprintf("%d open files for each process", l.OpenFiles)}
	case l.DiskBytes > 0 && strings.Contains(said, "No space left on device") && full(): // ENOSPC, of gVisor's scratch
		return l.files()
	}
	return nil
}

// files is the limit of files, reached.
func (l Limits) files() *LimitError {
	return &LimitError{size(l.DiskBytes) + " of files", "remove what is not needed"}
}

// size prints bytes as people do.
func size(bytes int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.bytes {
			return fmt.Sprintf("%.4g %s", float64(bytes)/float64(unit.bytes), unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}
