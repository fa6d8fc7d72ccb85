// Package record keeps on disk which sandboxes an engine has made, so that a
// worker can find and destroy those that an earlier one, killed, left behind.
// It owns the directory it is given and may call sandbox and cgroup.
package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

// Record describes one sandbox.
type Record struct {
	ID      string            `json:"id"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Owner   Owner             `json:"owner"`
	// Process is the sandbox's first process on the host; zero before it runs.
	Process Process `json:"process"`
	// Cgroups are the control groups made for the sandbox.
	Cgroups []string `json:"cgroups,omitempty"`
}

// Process names a process for good: its id, and when it was started, for ids
// are used again.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot
}

// Find names the process that has the id now.
func Find(pid int) (Process, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, err
	}
	// The name, in parentheses, may hold anything; what follows it cannot.
	rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:])
	fields := strings.Fields(rest)
	const threads, startTime = 17, 19 // fields 20 and 22 of stat, counted from after the name
	if len(fields) <= startTime {
		return Process{}, fmt.Errorf("/proc/%d/stat is not as expected", pid)
	}
	start, err := strconv.ParseUint(fields[startTime], 10, 64)
	// Its first thread may end before the others; what an init has to take with
	// it goes with the last.
	if err == nil && fields[0] == "Z" && fields[threads] == "1" {
		return Process{}, fmt.Errorf("process %d has ended", pid)
	}
	return Process{pid, start}, err
}

// Alive tells whether that very process still runs.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	now, err := Find(p.PID)
	return err == nil && now == p
}

// Dir is where an engine keeps its records: one directory per sandbox, in
// which the engine may keep more, and one for what tells whose owners live.
type Dir string

const file = "sandbox.json"

// Path is a sandbox's own directory.
func (d Dir) Path(id string) string { return filepath.Join(string(d), id) }

// IsID tells whether a text can be a sandbox's id.
func IsID(id string) bool {
	return len(id) == 26 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// Create makes a sandbox's directory and record, owned by this process. The
// control groups are those that are about to be made.
func (d Dir) Create(spec sandbox.Spec, cgroups []string) (*Record, error) {
	if !IsID(spec.ID) {
		return nil, fmt.Errorf("a sandbox's id must be 26 characters of a-z and 0-9, not %q", spec.ID)
	}
	if err := os.MkdirAll(string(d), 0o711); err != nil {
		return nil, err
	}
	owner, err := d.self()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.Path(spec.ID), 0o711); err != nil {
		return nil, err
	}
	r := &Record{ID: spec.ID, Labels: spec.Labels, Created: time.Now().UTC(), Owner: owner, Cgroups: cgroups}
	return r, d.Save(r)
}

// Save writes a record, whole or not at all.
func (d Dir) Save(r *Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := filepath.Join(d.Path(r.ID), file)
	if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Load reads a record; fs.ErrNotExist when there is no such sandbox. One whose
// worker was killed while it made it has a record without an owner, and so has one
// whose record was lost with the power of the host, which left no process either.
func (d Dir) Load(id string) (*Record, error) {
	if !IsID(id) {
		return nil, fs.ErrNotExist
	}
	raw, err := os.ReadFile(filepath.Join(d.Path(id), file))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(d.Path(id)); err != nil {
			return nil, err
		}
		return &Record{ID: id}, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Record{}
	if json.Unmarshal(raw, r) != nil {
		return &Record{ID: id}, nil
	}
	return r, nil
}

// List reads every record.
func (d Dir) List() ([]*Record, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*Record
	for _, entry := range entries {
		r, err := d.Load(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Infos is List as the engine contract has it. What dead owners have left beside
// their sandboxes goes.
func (d Dir) Infos() ([]sandbox.Info, error) {
	records, err := d.List()
	if err != nil {
		return nil, err
	}
	d.sweep()
	infos := make([]sandbox.Info, len(records))
	for i, r := range records {
		infos[i] = sandbox.Info{ID: r.ID, Labels: r.Labels, Created: r.Created, Owner: r.Owner.PID, OwnerAlive: d.Alive(r.Owner)}
	}
	return infos, nil
}

// Label gives a sandbox other labels.
func (d Dir) Label(id string, labels map[string]string) error {
	r, err := d.Load(id)
	if err == nil {
		r.Labels = labels
		err = d.Save(r)
	}
	if err != nil {
		return fmt.Errorf("label sandbox %s: %w", id, err)
	}
	return nil
}

// Destroy ends a sandbox by its first process, with which all others, and the
// mounts, end; and removes its control groups and its directory. An unknown id is
// no error.
func (d Dir) Destroy(ctx context.Context, id string) error {
	r, err := d.Load(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	cgroup.Thaw(r.Cgroups)
	for r.Process.Alive() {
		_ = syscall.Kill(r.Process.PID, syscall.SIGKILL) // it may have just ended
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	if err := errors.Join(cgroup.Remove(r.Cgroups), sandbox.RemoveAll(d.Path(id))); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", id, err)
	}
	return nil
}
