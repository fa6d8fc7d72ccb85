package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// limits tells which of a session's limits could be enforced here.
func limits() []Finding {
	const names, bounds = "control groups", "limits"
	g := probeGroups()
	if g.version == "" {
		const fix = "sudo mount -t cgroup2 none /sys/fs/cgroup"
		return []Finding{
			warning(names, fix, "none are mounted"),
			warning(bounds, fix, "CPU, memory and processes of a session cannot be limited by control groups"),
		}
	}
	var can, cannot, why []string
	for _, c := range controllers {
		if obstacle := g.obstacles[c.name]; obstacle == nil {
			can = append(can, c.bounds)
		} else {
			cannot = append(cannot, c.bounds)
			why = append(why, obstacle.Error())
		}
	}
	found := []Finding{good(names, "%s", g.version)}
	if len(cannot) == 0 {
		return append(found, good(bounds, "%s of a session can be limited", list(can)))
	}
	fix := "have systemd delegate its groups to the worker: Delegate=yes in the [Service] of its unit, or: systemd-run --user --scope -p Delegate=yes hearth worker …"
	if containerKind() != "" {
		fix = "give the container groups of its own to write to: docker run --cgroupns private --privileged …, or limit the container itself: docker run --memory 8g --cpus 2 --pids-limit 4096 …"
	}
	also := ""
	if len(can) > 0 {
		also = fmt.Sprintf("; %s can", list(can))
	}
	return append(found, warning(bounds, fix, "%s of a session cannot be limited (%s)%s", list(cannot), strings.Join(slices.Compact(why), "; "), also))
}

// controllers are those of the kernel's that limits of a session need.
var controllers = []struct{ name, bounds string }{{"cpu", "CPU"}, {"memory", "memory"}, {"pids", "processes"}}

// groups is what this process could do with control groups.
type groups struct {
	version string // in words; empty when there are none
	// obstacles tell, by controller, why it cannot be used; nil when it can.
	obstacles map[string]error
}

// probeGroups finds the control groups below which ours would be made. It makes
// none.
func probeGroups() groups {
	g := groups{obstacles: map[string]error{}}
	hierarchies := hierarchies()
	unified, hasV2 := hierarchies[""]
	var inV1, inV2 []string
	for _, c := range controllers {
		dir, isV1 := hierarchies[c.name]
		switch {
		case isV1:
			inV1 = append(inV1, c.name)
			g.obstacles[c.name] = writable(dir)
		case hasV2 && slices.Contains(words(unified, "cgroup.controllers"), c.name):
			inV2 = append(inV2, c.name)
			g.obstacles[c.name] = errors.Join(writable(unified), delegated(unified))
		default:
			g.obstacles[c.name] = fmt.Errorf("the %s controller is nowhere to be found", c.name)
		}
	}
	switch v1 := len(hierarchies) > 1 || len(hierarchies) == 1 && !hasV2; {
	case v1 && hasV2:
		g.version = "hybrid: " + carrying("v1", inV1) + ", " + carrying("v2", inV2)
	case v1:
		g.version = carrying("v1", inV1)
	case hasV2:
		g.version = carrying("v2", inV2)
	}
	return g
}

func carrying(version string, controllers []string) string {
	if len(controllers) == 0 {
		return version + " with no controller that limits need"
	}
	return version + " with " + list(controllers)
}

// hierarchies are the directories of our own groups, by controller; that of
// version 2, which has all its controllers in one, is named "".
func hierarchies() map[string]string {
	found := map[string]string{}
	raw, _ := os.ReadFile("/proc/self/cgroup") // this program does not start without /proc
	ours := map[string]string{}                // path of our group, by controller
	for line := range strings.Lines(string(raw)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			for name := range strings.SplitSeq(parts[1], ",") {
				ours[name] = parts[2]
			}
		}
	}
	for _, m := range mounts() {
		if !shown(m) {
			continue
		}
		switch m.kind {
		case "cgroup2":
			found[""] = groupDir(m, ours[""])
		case "cgroup":
			for name := range strings.SplitSeq(m.super, ",") {
				if path, ok := ours[name]; ok && name != "" {
					found[name] = groupDir(m, path)
				}
			}
		}
	}
	return found
}

// shown tells whether a mount of control groups is not covered by another.
func shown(m mount) bool {
	var info unix.Statfs_t
	err := unix.Statfs(m.point, &info)
	return err == nil && (info.Type == unix.CGROUP_SUPER_MAGIC || info.Type == unix.CGROUP2_SUPER_MAGIC)
}

// groupDir is where a mount shows the group of a path. In a container it may
// show but a part of the tree, and the path be another's view.
func groupDir(m mount, path string) string {
	dir := filepath.Join(m.point, strings.TrimPrefix(path, strings.TrimSuffix(m.root, "/")))
	if _, err := os.Stat(dir); err != nil {
		return m.point
	}
	return dir
}

// writable tells why groups cannot be made in a directory.
func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("groups cannot be made in %s: %w", dir, err)
	}
	return nil
}

// delegated tells why controllers cannot be switched on below a group.
func delegated(dir string) error {
	if err := unix.Access(filepath.Join(dir, "cgroup.subtree_control"), unix.W_OK); err != nil {
		return fmt.Errorf("controllers cannot be passed on in %s: %w", dir, err)
	}
	return nil
}

// words reads a file of words in a group.
func words(dir, name string) []string {
	raw, _ := os.ReadFile(filepath.Join(dir, name)) // without it there are none
	return strings.Fields(string(raw))
}
