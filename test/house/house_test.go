// Package house holds the rules of the house as tests: which package may
// import which, what every package must say of itself, and what none may be
// called.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hearth/test/build"
)

const module = "hearth"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
}

// floors lists the house from the top down. A package may import packages of
// its own floor or of those below it. The brain and the hands are two towers
// on the same ground; cmd stands on both.
var floors = map[string][][]string{
	"brain": {
		{"internal/brain/server", "internal/brain/console"},
		{"internal/brain/loop", "internal/brain/model", "internal/brain/mcp", "internal/brain/gateway"},
		{"internal/brain/launch"},
		{"internal/brain/resource"},
		{"internal/brain/agent", "internal/brain/environment", "internal/brain/auth", "internal/brain/skill", "internal/brain/file", "internal/brain/memory", "internal/brain/vault", "internal/brain/deployment", "internal/brain/tunnel", "internal/brain/profile", "internal/brain/dream"},
		{"internal/brain/session"},
		{"internal/brain/queue", "internal/brain/seal", "internal/brain/webhook"},
		{"internal/brain/outbound", "internal/brain/price", "internal/brain/outbox"},
	},
	"hands": {
		{"internal/hands/worker", "internal/hands/doctor"},
		{"internal/hands/sandbox", "internal/hands/mount", "internal/hands/image", "internal/hands/depot", "internal/hands/shell", "internal/hands/egress", "internal/hands/guard"},
		{"internal/hands/hand"},
	},
	"ground": {
		{"internal/blob", "internal/db", "internal/ledger", "internal/secret", "internal/telemetry"},
		{"api"},
	},
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t) {
		from, ok := locate(p.ImportPath)
		if !ok {
			continue
		}
		for _, imported := range p.Imports {
			to, ok := locate(imported)
			switch {
			case strings.HasPrefix(imported, module+"/cmd/"), strings.HasPrefix(imported, module+"/client"):
				t.Errorf("%s imports %s, which stands above it", p.ImportPath, imported)
			case !ok:
			case from.tower != to.tower && to.tower != "ground":
				t.Errorf("%s imports %s: the %s must know nothing of the %s; they meet in api and on the wire", p.ImportPath, imported, from.tower, to.tower)
			case from.tower == to.tower && from.floor > to.floor:
				t.Errorf("%s imports %s, which is a floor above it", p.ImportPath, imported)
			}
		}
	}
}

// TestTowersStayApart looks at what is linked in the end, not only at direct imports.
func TestTowersStayApart(t *testing.T) {
	for tower, other := range map[string]string{"brain": "hands", "hands": "brain"} {
		for _, dep := range deps(t, "./internal/"+tower+"/...") {
			if strings.HasPrefix(dep, module+"/internal/"+other+"/") {
				t.Errorf("internal/%s links %s", tower, dep)
			}
		}
	}
}

func TestWireContractImportsNothingOfOurs(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"/api" {
			continue
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, module+"/") {
				t.Errorf("api imports %s", imported)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(strings.Fields(p.Doc)) < 5 {
			t.Errorf("%s has no package comment that says what it is for", p.ImportPath)
		}
	}
}

// TestSmallProgramIsCurrent: what go generate has built for hearth to hold is what
// the sources make now.
func TestSmallProgramIsCurrent(t *testing.T) {
	held, err := os.ReadFile("../../cmd/hearth/hand/hand-" + runtime.GOARCH)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("hearth holds no small program here: go generate ./cmd/hearth makes one")
	}
	if err != nil {
		t.Fatal(err)
	}
	now := filepath.Join(t.TempDir(), "hand")
	if err := build.Link(t.Context(), "hearth/cmd/hearth-hand", now, "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(now)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(held, made) {
		t.Error("the small program that hearth holds is not of today's sources; run: go generate ./cmd/hearth")
	}
}

func TestNoPackageIsABag(t *testing.T) {
	bags := []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "misc"}
	for _, p := range packages(t) {
		if slices.Contains(bags, path.Base(p.ImportPath)) {
			t.Errorf("%s: name a package after what it does", p.ImportPath)
		}
	}
}

// place is where a package stands; a lower floor has a higher number.
type place struct {
	tower string
	floor int
}

func locate(importPath string) (place, bool) {
	inside, ours := strings.CutPrefix(importPath, module+"/")
	if !ours {
		return place{}, false
	}
	for tower, levels := range floors {
		for floor, rooms := range levels {
			for _, room := range rooms {
				if inside == room || strings.HasPrefix(inside, room+"/") {
					return place{tower, floor}, true
				}
			}
		}
	}
	return place{}, false
}

func packages(t *testing.T) []pkg {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(goList(t, "-json=ImportPath,Doc,Imports,GoFiles", module+"/...")))
	var all []pkg
	for {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

func deps(t *testing.T, pattern string) []string {
	t.Helper()
	found := strings.Fields(goList(t, "-deps", pattern))
	if len(found) == 0 {
		t.Fatalf("go list -deps %s found nothing", pattern)
	}
	return found
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	return string(out)
}
