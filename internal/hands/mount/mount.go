// Package mount puts what a session has mounted where its sandbox finds it:
// files, Git repositories and memory stores. It carries what the session leaves in
// its outputs and its memories back to the server. Credentials are used on the
// worker's side only and never reach the sandbox. It owns the session's mnt
// directory and the lists beside it, and may call only the shared floor and
// package sandbox.
package mount

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hearth/api"
	"hearth/internal/hands/sandbox"
)

// Server is what is asked of the server, with the credential of the session's
// work item. Its methods are safe for concurrent use.
type Server interface {
	// Do makes a request, again where that may help. In and out are JSON; nil for
	// none.
	Do(ctx context.Context, method, path string, in, out any) error
	// Download opens what a path holds, and tells its size in bytes, or -1.
	Download(ctx context.Context, path string) (io.ReadCloser, int64, error)
	// Upload posts a form of size bytes, once.
	Upload(ctx context.Context, path, contentType string, form io.Reader, size int64, out any) error
}

// Config of a Mounter. All of it is required, but for Mnt and what
// has a default.
type Config struct {
	Server    Server
	SessionID string
	// Dir is the session's directory on this host, out of the sandbox's reach.
	Dir string
	// Work and Mnt are what appears as the sandbox's working directory and /mnt. Mnt
	// is "" for an engine that has no file system of its own. They may be on other
	// file systems than Dir.
	Work, Mnt string
	// HasToken tells that the server is asked with a sessions token, which alone is
	// good for memory stores.
	HasToken bool
	// Disk is how many bytes the session may have on disk: no more is mounted, and no
	// more outputs are taken at a time. Default no bound.
	Disk int64
	Log  *slog.Logger
}

// Mounter mounts and collects for one session. Its methods are safe for
// concurrent use.
type Mounter struct {
	Config

	syncing sync.Mutex
	mounted map[string]mounted // by resource id; guarded by syncing
	stores  map[string]*store  // memory stores by id; guarded by syncing
	brought int64              // bytes that have been mounted; guarded by syncing

	collecting sync.Mutex
	outputs    map[string]output // by outputKey of the path below the outputs; guarded by collecting
}

// mounted is a resource that has been put in its place.
type mounted struct {
	Type string `json:"type"`
	Path string `json:"path"`
}

// The lists in Config.Dir, and what is on its way.
const (
	mountedFile = "mounted.json"
	// memoriesFile holds what of the memory stores is the same here and there.
	memoriesFile = "memories.json"
	outputsFile  = "outputs.json"
	incomingDir  = "incoming"
)

// Lists are the files in Config.Dir that a session takes along when it goes to
// another worker.
var Lists = []string{mountedFile, outputsFile, memoriesFile}

// New makes a mounter, which knows what earlier ones of the session have done.
func New(cfg Config) (*Mounter, error) {
	m := &Mounter{Config: cfg, mounted: map[string]mounted{}, stores: map[string]*store{}, outputs: map[string]output{}}
	return m, errors.Join(m.load(mountedFile, &m.mounted), m.load(outputsFile, &m.outputs), m.loadMemories())
}

func (m *Mounter) load(name string, list any) error {
	raw, err := os.ReadFile(filepath.Join(m.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, list)
	}
	if err != nil {
		return fmt.Errorf("read what is mounted: %w", err)
	}
	return nil
}

func (m *Mounter) save(name string, list any) error {
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	file := filepath.Join(m.Dir, name)
	if err := os.WriteFile(file+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// resource is any resource of a session.
type resource struct {
	ID        string        `json:"id"`
	Type      string        `json:"type"`
	MountPath string        `json:"mount_path"`
	FileID    string        `json:"file_id"`
	URL       string        `json:"url"`
	Checkout  *api.Checkout `json:"checkout"`

	MemoryStoreID string `json:"memory_store_id"`
	Access        string `json:"access"`
	Name          string `json:"name"`
}

// Failure is a resource that is not where it should be.
type Failure struct {
	ResourceID string
	Path       string
	Err        error
	// Lapsed tells that it is there, and that changes there are not kept for now.
	Lapsed bool
}

func (f Failure) Error() string {
	if f.Lapsed {
		return fmt.Sprintf("%s is there, but what is changed in it is not kept for now: %v", f.Path, f.Err)
	}
	return fmt.Sprintf("%s is missing: %v", f.Path, f.Err)
}

// Sync mounts the resources that are not mounted yet and removes files that are
// no longer among them. The sandbox must exist, because its directories are its
// own from then on. Repositories are fetched once: what the session makes of one
// stays.
//
// Notes are what the agent should know of its memories.
func (m *Mounter) Sync(ctx context.Context, resources []json.RawMessage) (failures []Failure, notes []string) {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	wanted := map[string]bool{}
	for _, raw := range resources {
		var r resource
		if err := json.Unmarshal(raw, &r); err != nil {
			failures = append(failures, Failure{Path: "a resource", Err: err})
			continue
		}
		if r.Type == api.ResourceMemory {
			if r.MountPath == "" { // another server's choice not to say
				r.MountPath = path.Join(sandbox.GuestWorkdir, "memory", cmp.Or(r.Name, r.MemoryStoreID))
			}
			said, err := m.mountMemory(ctx, r)
			if notes = append(notes, said...); err != nil {
				failures = append(failures, Failure{ResourceID: r.MemoryStoreID, Path: r.MountPath, Err: err, Lapsed: m.stores[r.MemoryStoreID] != nil})
			}
			continue
		}
		wanted[r.ID] = true
		if _, there := m.mounted[r.ID]; there {
			continue
		}
		if err := m.mount(ctx, r); err != nil {
			failures = append(failures, Failure{ResourceID: r.ID, Path: r.MountPath, Err: err})
		}
	}
	for _, id := range slices.Collect(maps.Keys(m.mounted)) {
		if !wanted[id] {
			m.unmount(id)
		}
	}
	if err := m.outputsDir(); err != nil {
		failures = append(failures, Failure{Path: guestOutputs, Err: err})
	}
	return failures, notes
}

func (m *Mounter) mount(ctx context.Context, r resource) (err error) {
	began := time.Now()
	switch r.Type {
	case api.ResourceFile:
		err = m.mountFile(ctx, r)
	case api.ResourceRepository:
		err = m.mountRepository(ctx, r)
	default:
		err = fmt.Errorf("this worker cannot mount a %.40s", r.Type)
	}
	if err != nil {
		return err
	}
	m.Log.Info("mounted a resource", "resource", r.ID, "path", r.MountPath, "took", time.Since(began).Round(time.Millisecond))
	m.mounted[r.ID] = mounted{r.Type, r.MountPath}
	return m.save(mountedFile, m.mounted)
}

func (m *Mounter) unmount(id string) {
	gone := m.mounted[id]
	if gone.Type == api.ResourceFile { // a repository holds the session's own work
		if dir, err := m.open(gone.Path); err == nil {
			_ = dir.root.Remove(dir.name) // the session may have removed it
			dir.root.Close()
		}
	}
	delete(m.mounted, id)
	if err := m.save(mountedFile, m.mounted); err != nil {
		m.Log.Warn("could not note that a resource has been removed", "resource", id, "error", err)
	}
}

func (m *Mounter) mountFile(ctx context.Context, r resource) error {
	body, size, err := m.Server.Download(ctx, "/v1/files/"+url.PathEscape(r.FileID)+"/content")
	if err != nil {
		return fmt.Errorf("download file %s: %w", r.FileID, err)
	}
	defer body.Close()
	room := m.room()
	if size > room {
		return m.tooLarge(fmt.Sprintf("file %s has %d bytes", r.FileID, size))
	}
	dir, err := m.make(r.MountPath)
	if err != nil {
		return err
	}
	defer dir.root.Close()
	passing := dir.beside(".hearth-" + r.ID)
	_ = dir.root.Remove(passing) // of a worker that was killed
	// A copy to read: who wants to change it makes one of their own.
	out, err := dir.root.OpenFile(passing, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return err
	}
	p := m.progress("downloading a file", r.MountPath, size)
	n, err := io.Copy(io.MultiWriter(out, p), io.LimitReader(body, room))
	switch {
	case err == nil && size >= 0 && n != size:
		err = io.ErrUnexpectedEOF
	case err == nil && size < 0 && n == room: // it did not say how large it is
		err = m.tooLarge("it is large")
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = dir.root.Rename(passing, dir.name)
	}
	if err != nil {
		_ = dir.root.Remove(passing) // what there is of it
		return fmt.Errorf("download file %s: %w", r.FileID, err)
	}
	m.brought += n
	return nil
}

// room is how many bytes may be mounted still.
func (m *Mounter) room() int64 {
	if m.Disk == 0 {
		return math.MaxInt64
	}
	return max(0, m.Disk-m.brought)
}

func (m *Mounter) tooLarge(what string) error {
	also := ""
	if m.brought > 0 {
		also = fmt.Sprintf(", and %d are mounted already", m.brought)
	}
	return fmt.Errorf("%s, the session may have %d on disk%s; --disk of its worker says so", what, m.Disk, also)
}

// progressEvery is how often a long transfer is logged.
const progressEvery = 10 * time.Second

// progress logs how far a transfer has come.
type progress struct {
	log  *slog.Logger
	what string
	path string
	of   int64
	done int64
	last time.Time
}

func (m *Mounter) progress(what, path string, of int64) *progress {
	return &progress{m.Log, what, path, of, 0, time.Now()}
}

func (p *progress) Write(b []byte) (int, error) {
	p.done += int64(len(b))
	if time.Since(p.last) >= progressEvery {
		p.last = time.Now()
		p.log.Info(p.what, "path", p.path, "bytes", p.done, "of", p.of)
	}
	return len(b), nil
}

// tail is the end of what Git says, on one line, without the directory on this
// host.
func tail(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Cloning into ") })
	if len(lines) > 4 {
		lines = lines[len(lines)-4:]
	}
	return strings.TrimSpace(strings.Join(lines, "; "))
}
