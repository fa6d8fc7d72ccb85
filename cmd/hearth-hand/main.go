// Command hearth-hand is what runs in sandboxes, and keeps them: the hand of each
// engine with its keeper on the host, and nothing else of Hearth, so that a sandbox
// starts sooner and keeps less in memory. It is built into hearth by go generate
// ./cmd/hearth, and of no use by itself.
package main

import (
	"fmt"
	"os"

	_ "hearth/internal/hands/sandbox/docker/guest"
	_ "hearth/internal/hands/sandbox/gvisor/guest"
	_ "hearth/internal/hands/sandbox/gvisor/keeper"
	_ "hearth/internal/hands/sandbox/namespace"
)

func main() {
	fmt.Fprintln(os.Stderr, "hearth-hand is started by a worker, in a sandbox; see hearth worker --help")
	os.Exit(2)
}
