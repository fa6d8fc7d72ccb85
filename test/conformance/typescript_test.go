package conformance

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// tsProject installs the official TypeScript SDK, once for each lock file, in
// the user's cache.
var tsProject = sync.OnceValues(func() (dir string, err error) {
	lock, err := os.ReadFile("ts/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir = filepath.Join(cache, "hearth-conformance", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(dir, "installed")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		raw, err := os.ReadFile(filepath.Join("ts", name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return "", err
		}
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "installed"), nil, 0o644)
})

// tsCommand is a program of ts/ with the official SDK beside it.
func tsCommand(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here (apt-get install nodejs npm): not tested with the TypeScript SDK", tool)
		}
	}
	dir, err := tsProject()
	if err != nil {
		t.Fatal(err)
	}
	// Modules are looked for beside the program.
	raw, err := os.ReadFile(filepath.Join("ts", name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(dir, "*-"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if _, err := f.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", f.Name())
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	return cmd
}

// TestTypeScriptClient has the official TypeScript SDK drive a server, with its
// SessionToolRunner answering a custom tool.
func TestTypeScriptClient(t *testing.T) {
	t.Parallel()
	b := serve(t)
	cmd := tsCommand(t, "client.mjs", "HEARTH_URL="+b.url, "HEARTH_KEY="+b.key)
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
