package gvisor

import (
	"io"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"gvisor.dev/gvisor/runsc/cli/maincli"

	"hearth/internal/hands/sandbox/gvisor/keeper"
	"hearth/internal/hands/sandbox/reexec"
)

// init makes this binary gVisor's parts, as which keepers start it, and it itself.
func init() {
	for _, part := range []string{"runsc", "runsc-gofer", "runsc-sandbox", "/proc/self/exe"} {
		reexec.Register(part, func() {
			go settle()
			maincli.Main()
		})
	}
	reexec.Register(keeper.GVisor, func() {
		debug.SetGCPercent(-1) // it is soon gone
		made := os.NewFile(3, "the guest's root")
		_, _ = io.Copy(io.Discard, made) // it is made, or the keeper is gone, and this process with it
		made.Close()
		os.Args[0] = "runsc"
		maincli.Main()
	})
}

// settle gives back what starting took, once that should be over: many sandboxes
// idle for long. Until then nothing is collected, for what starts soon needs most
// of what it makes; but for what a guest that is busy at once has it make.
func settle() {
	percent := debug.SetGCPercent(-1)
	debug.SetMemoryLimit(startMemory)
	time.Sleep(time.Second)
	debug.SetGCPercent(percent)
	debug.SetMemoryLimit(heapShare())
	debug.FreeOSMemory()
}

// startMemory is more than starting takes, in bytes.
const startMemory = 64 << 20

// heapShare is how many bytes the heap may take before it is collected more often. It
// is held against the sandbox's limit like the guest's own memory, and what programs
// leave in pipes and sockets is in it: as long again as garbage, without this.
func heapShare() int64 {
	const most = "--total-memory" // given to the part that is the guest's kernel
	if i := slices.Index(os.Args, most); i >= 0 && i+1 < len(os.Args) {
		if bytes, err := strconv.ParseInt(os.Args[i+1], 10, 64); err == nil {
			return bytes / 2
		}
	}
	return math.MaxInt64
}
