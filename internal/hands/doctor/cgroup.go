package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	fix := "run the worker as root, or have root chown those directories to its user"
	switch {
	case containerKind() != "":
		fix = "let the container make groups: docker run --privileged …; or limit it as a whole: docker run --memory 8g --cpus 2 --pids-limit 4096 …"
	case g.delegable:
		fix = "give the worker a group of its own: Delegate=yes in the [Service] of its unit, or: systemd-run --user --scope -p Delegate=yes hearth worker …"
	}
	also := ""
	if g.obstacles["pids"] != nil {
		also = "; processes are counted in the sandbox all the same, but with the process engine"
	}
	if len(can) > 0 {
		also += fmt.Sprintf("; %s can", list(can))
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
	// delegable tells that systemd can give them away.
	delegable bool
}

// probeGroups tells what a worker's search for control groups would come to. The
// search itself may move processes and switch controllers on; this only looks.
func probeGroups() groups {
	trees := hierarchies()
	unified, hasV2 := trees[""]
	delete(trees, "")
	hasV1 := len(trees) > 0
	g := groups{obstacles: map[string]error{}}
	var inV1, inV2 []string
	for _, c := range controllers {
		if _, ok := trees[c.name]; ok {
			inV1 = append(inV1, c.name)
		}
		if hasV2 && slices.Contains(words(unified, "cgroup.controllers"), c.name) {
			inV2 = append(inV2, c.name)
		}
	}
	used := inV1 // a worker uses the second version where it has anything, and else the first
	if len(inV2) > 0 {
		used = inV2
	}
	for _, c := range controllers {
		switch {
		case !slices.Contains(used, c.name):
			g.obstacles[c.name] = fmt.Errorf("there is no %s controller", c.name)
		case len(inV2) > 0:
			g.obstacles[c.name] = cmp.Or(writable(unified), divisible(unified, inV2))
		default:
			g.obstacles[c.name] = writable(trees[c.name])
		}
	}
	switch {
	case hasV1 && hasV2:
		g.version = "hybrid: " + carrying("v1", inV1) + ", " + carrying("v2", inV2)
	case hasV1:
		g.version = carrying("v1", inV1)
	case hasV2:
		g.version = carrying("v2", inV2)
	}
	g.delegable = len(inV2) > 0
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

// divisible tells why a group of version 2 cannot pass controllers on to groups
// below it: it is not ours, or others are in it.
func divisible(dir string, controllers []string) error {
	if err := unix.Access(filepath.Join(dir, "cgroup.subtree_control"), unix.W_OK); err != nil {
		return fmt.Errorf("controllers cannot be passed on in %s: %w", dir, err)
	}
	passedOn := words(dir, "cgroup.subtree_control")
	lacks := func(c string) bool { return !slices.Contains(passedOn, c) }
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err != nil || !slices.ContainsFunc(controllers, lacks) {
		return nil // the root may hold processes and groups both
	}
	for _, pid := range words(dir, "cgroup.procs") {
		if pid != strconv.Itoa(os.Getpid()) {
			return fmt.Errorf("other processes are in %s, which a worker must have to itself", dir)
		}
	}
	return nil
}

// words reads a file of words in a group.
func words(dir, name string) []string {
	raw, _ := os.ReadFile(filepath.Join(dir, name)) // without it there are none
	return strings.Fields(string(raw))
}
