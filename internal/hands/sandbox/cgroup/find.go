package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Find looks where this process may make groups. The error says, in words that
// name the fix, why some limits or all cannot be enforced; the tree is good for
// the rest. On version 2 the process may be moved to a group of its own, below
// the one it is in, because a group that has groups below it may not itself hold
// processes.
func Find() (*Tree, error) {
	mounts, err := hierarchies()
	if err != nil {
		return nil, err
	}
	own, err := groupsOf("self")
	if err != nil {
		return nil, err
	}
	if t, err := findTwo(mounts, own); t != nil || err != nil {
		return t, err
	}
	return findOne(mounts, own)
}

// mount is a mounted hierarchy of control groups.
type mount struct {
	point, root string
	version     int
	options     []string // of version 1: its controllers, among others
}

func hierarchies() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []mount
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 36 35 98:0 /root /point options - type source superoptions
		before, after, ok := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 {
			continue
		}
		m := mount{root: head[3], point: head[4], options: strings.Split(tail[2], ",")}
		switch tail[0] {
		case "cgroup":
			m.version = 1
		case "cgroup2":
			m.version = 2
		default:
			continue
		}
		all = append(all, m)
	}
	return all, nil
}

// Of is the group of a process that somebody else has bounded, to read its hits.
// The group's path must hold a word that only that group's does; where it does
// not, there are no hits to be read.
func Of(pid int, word string) *Group {
	mounts, err := hierarchies()
	if err != nil {
		return nil
	}
	groups, err := groupsOf(strconv.Itoa(pid))
	if err != nil {
		return nil
	}
	g := &Group{tree: &Tree{version: 2}, dirs: map[string]string{}}
	for _, m := range mounts {
		for _, controller := range []string{memory, pids} {
			if group := groups[controller]; m.version == 1 && slices.Contains(m.options, controller) && strings.Contains(group, word) {
				g.tree.version, g.dirs[controller] = 1, m.dir(group)
			}
		}
	}
	if g.tree.version == 1 {
		return g
	}
	i := slices.IndexFunc(mounts, func(m mount) bool { return m.version == 2 })
	if i >= 0 && strings.Contains(groups[""], word) {
		g.dirs[memory], g.dirs[pids] = mounts[i].dir(groups[""]), mounts[i].dir(groups[""])
	}
	return g
}

// groupsOf are the groups a process is in: by controller, and that of version 2
// by "".
func groupsOf(pid string) (map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			groups[controller] = parts[2]
		}
	}
	return groups, nil
}

// dir is where a group of the hierarchy is to be found.
func (m mount) dir(group string) string {
	below, err := filepath.Rel(m.root, group)
	if err != nil || strings.HasPrefix(below, "..") {
		below = "." // seen from inside a container, its own group is the root
	}
	return filepath.Join(m.point, below)
}

func findOne(mounts []mount, own map[string]string) (*Tree, error) {
	t := &Tree{version: 1, parents: map[string]string{}}
	var denied error
	for _, controller := range []string{memory, cpu, pids, freezer} {
		i := slices.IndexFunc(mounts, func(m mount) bool { return m.version == 1 && slices.Contains(m.options, controller) })
		if i < 0 {
			continue
		}
		parent := mounts[i].dir(own[controller])
		if err := unix.Access(parent, unix.W_OK); err != nil {
			denied = fmt.Errorf("this user may not make control groups in %s; run the worker as root, or have root chown that directory to it: %w", parent, err)
			continue
		}
		t.parents[controller] = parent
	}
	switch {
	case denied != nil:
		return t, denied
	case len(t.parents) == 0:
		return t, errors.New("no control groups are mounted below /sys/fs/cgroup")
	}
	return t, nil
}

// worker is the group this process moves to.
const worker = prefix + "worker"

// findTwo is nil without an error when version 2 has no controllers here.
func findTwo(mounts []mount, own map[string]string) (*Tree, error) {
	i := slices.IndexFunc(mounts, func(m mount) bool { return m.version == 2 })
	if i < 0 {
		return nil, nil
	}
	parent := mounts[i].dir(own[""])
	if filepath.Base(parent) == worker {
		parent = filepath.Dir(parent) // an earlier Find has moved us
	}
	raw, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	t := &Tree{version: 2, parents: map[string]string{}}
	var wanted []string
	for _, controller := range []string{memory, cpu, pids} {
		if slices.Contains(strings.Fields(string(raw)), controller) {
			wanted = append(wanted, "+"+controller)
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	if err := delegate(parent, strings.Join(wanted, " ")); err != nil {
		return t, fmt.Errorf("the worker may not divide its control group %s; start it with Delegate=yes (systemd-run -p Delegate=yes, or in its unit): %w", parent, err)
	}
	for _, controller := range wanted {
		t.parents[controller[1:]] = parent
	}
	t.parents[freezer] = parent
	return t, nil
}

// delegate has the groups below parent use controllers. Processes in parent,
// which are in the way, are this one's own or stay there and the kernel refuses.
func delegate(parent, controllers string) error {
	file := filepath.Join(parent, "cgroup.subtree_control")
	err := os.WriteFile(file, []byte(controllers), 0)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	leaf := filepath.Join(parent, worker)
	if err := os.Mkdir(leaf, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(controllers), 0)
}
