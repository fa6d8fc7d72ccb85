package conformance

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"

	"hearth/test/run"
)

// TestTypeScriptClient has the official TypeScript SDK drive a server, with its
// SessionToolRunner answering a custom tool.
func TestTypeScriptClient(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	cmd := run.TypeScript(t, "ts/client.mjs", "HEARTH_URL="+b.URL, "HEARTH_KEY="+b.Key)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var found struct{ Done []string }
	if err := json.Unmarshal(out, &found); err != nil || !slices.Contains(found.Done, "end") {
		t.Errorf("the client did %v: %v", found.Done, err)
	}
}

// nodeGlobs tells whether Node has what the official glob tool is built on.
func nodeGlobs() bool {
	return exec.Command("node", "-e", "process.exit(typeof require('fs/promises').glob === 'function' ? 0 : 1)").Run() == nil
}
