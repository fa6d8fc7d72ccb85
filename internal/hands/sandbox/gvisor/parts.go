package gvisor

import (
	"io"
	"os"
	"runtime/debug"
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
// of what it makes; but for what a guest that is busy at once has it make, which is
// held against the sandbox's limit.
func settle() {
	percent, most := debug.SetGCPercent(-1), debug.SetMemoryLimit(startMemory)
	time.Sleep(time.Second)
	debug.SetGCPercent(percent)
	debug.SetMemoryLimit(most)
	debug.FreeOSMemory()
}

// startMemory is more than starting takes, in bytes.
const startMemory = 64 << 20
