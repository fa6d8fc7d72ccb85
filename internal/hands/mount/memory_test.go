package mount

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hearth/api"
)

const storeID, mountPath = "memstore_1", "/mnt/memory/notes"

// remote plays a server with one memory store.
type remote struct {
	mu       sync.Mutex
	memories map[string]string // content by path; guarded by mu
	asked    []string          // requests that change something; guarded by mu
	// fails answers a request in the server's place, by what it is.
	fails map[string]error
	// after is called when a request has been done, before it is answered.
	after map[string]func() error
}

type answer int

func (a answer) Error() string  { return http.StatusText(int(a)) }
func (a answer) Status() int    { return int(a) }
func (a answer) NotFound() bool { return a == http.StatusNotFound }

func (r *remote) Do(ctx context.Context, method, path string, in, out any) error {
	u, err := url.Parse(path)
	if err != nil {
		return err
	}
	if err := r.fails[method]; err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	result, err := r.serve(method, strings.TrimPrefix(u.Path, storePath(storeID)), u.Query(), in)
	if err != nil {
		return err
	}
	if after := r.after[method]; after != nil {
		if err := after(); err != nil {
			return err
		}
	}
	if out == nil {
		return nil
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

func (r *remote) memory(name string, full bool) map[string]any {
	content := r.memories[name]
	m := map[string]any{"id": name, "type": "memory", "path": "/" + name, "content_sha256": sum([]byte(content))}
	if full {
		m["content"] = content
	}
	return m
}

// serve answers one request. A memory's id is its path, in this server.
func (r *remote) serve(method, id string, query url.Values, in any) (any, error) {
	id = strings.TrimPrefix(id, "/")
	content, there := r.memories[id]
	var body struct {
		Path, Content string
		Precondition  struct {
			SHA256 string `json:"content_sha256"`
		}
	}
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &body); err != nil {
			return nil, err
		}
	}
	full := query.Get("view") == "full"
	if id != "" && !there {
		return nil, answer(404)
	}
	switch {
	case method == "GET" && id == "":
		page := map[string]any{"data": []any{map[string]any{"type": "memory_prefix", "path": "/x/"}}}
		var all []any
		for _, name := range slices.Sorted(maps.Keys(r.memories)) {
			if name > query.Get("page") {
				all = append(all, r.memory(name, full))
			}
		}
		if len(all) > 2 {
			all = all[:2]
			page["next_page"] = all[1].(map[string]any)["id"]
		}
		page["data"] = append(page["data"].([]any), all...)
		return page, nil
	case method == "GET":
		return r.memory(id, full), nil
	case method == "DELETE":
		if query.Get("expected_content_sha256") != sum([]byte(content)) {
			return nil, answer(409)
		}
		delete(r.memories, id)
		r.asked = append(r.asked, "DELETE "+id)
		return nil, nil
	case id == "":
		id = strings.TrimPrefix(body.Path, "/")
		for other := range r.memories {
			if other == id || strings.HasPrefix(other, id+"/") || strings.HasPrefix(id, other+"/") {
				return nil, answer(409)
			}
		}
	case body.Precondition.SHA256 != sum([]byte(content)):
		return nil, answer(409)
	}
	if strings.Contains(body.Content, "refuse me") {
		return nil, answer(400)
	}
	r.memories[id] = body.Content
	r.asked = append(r.asked, "POST "+id)
	return r.memory(id, false), nil
}

func (*remote) Download(context.Context, string) (io.ReadCloser, int64, error) {
	return nil, 0, answer(404)
}

func (*remote) Upload(context.Context, string, string, io.Reader, int64, any) error {
	return answer(404)
}

// desk is a session's mounter with its directories.
type desk struct {
	*remote
	t   *testing.T
	dir string // of the session
	m   *Mounter
}

func newDesk(t *testing.T, memories map[string]string) *desk {
	t.Helper()
	d := &desk{remote: &remote{memories: memories}, t: t, dir: t.TempDir()}
	for _, name := range []string{"work", "mnt"} {
		if err := os.Mkdir(filepath.Join(d.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.restart()
	return d
}

// restart makes another mounter, as a worker does that was killed.
func (d *desk) restart() {
	d.t.Helper()
	m, err := New(Config{
		Server: d.remote, SessionID: "sesn_1", Dir: d.dir, Work: filepath.Join(d.dir, "work"), Mnt: filepath.Join(d.dir, "mnt"),
		HasToken: true, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.m = m
}

// mount mounts the store, and tells what went wrong.
func (d *desk) mount(access string) string {
	d.t.Helper()
	raw, err := json.Marshal(api.MemoryResource{Type: api.ResourceMemory, MemoryStoreID: storeID, Access: access, MountPath: mountPath})
	if err != nil {
		d.t.Fatal(err)
	}
	return d.told(d.m.Sync(d.t.Context(), []json.RawMessage{raw}))
}

func (d *desk) sync(how MemorySync) string {
	d.t.Helper()
	return d.told(d.m.SyncMemories(d.t.Context(), how))
}

func (*desk) told(failures []Failure, notes []string) string {
	for _, f := range failures {
		notes = append(notes, f.Error())
	}
	return strings.Join(notes, "\n")
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, "mnt/memory/notes", name) }

func (d *desk) write(name, content string) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(d.path(name)), 0o755); err != nil {
		d.t.Fatal(err)
	}
	// As editors do it: in place of a file that may not be writable.
	if err := os.Remove(d.path(name)); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.path(name), []byte(content), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) remove(name string) {
	d.t.Helper()
	if err := os.RemoveAll(d.path(name)); err != nil {
		d.t.Fatal(err)
	}
}

// set changes the store behind the worker's back; "" removes a memory.
func (d *desk) set(name, content string) {
	d.remote.mu.Lock()
	defer d.remote.mu.Unlock()
	if d.memories[name] = content; content == "" {
		delete(d.memories, name)
	}
}

// here is what the directory holds, but for the marker.
func (d *desk) here() map[string]string {
	d.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(d.path(""), func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		name, _ := filepath.Rel(d.path(""), path) // both begin alike
		if name != api.MemoryMarker {
			all[name] = string(raw)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

func (d *desk) want(what string, here, there map[string]string) {
	d.t.Helper()
	if got := d.here(); !maps.Equal(got, here) {
		d.t.Errorf("%s: here is %q, want %q", what, got, here)
	}
	d.remote.mu.Lock()
	defer d.remote.mu.Unlock()
	if !maps.Equal(d.memories, there) {
		d.t.Errorf("%s: there is %q, want %q", what, d.memories, there)
	}
}

type files = map[string]string

// TestWhatWins takes every combination of what happens to a memory here and there.
func TestWhatWins(t *testing.T) {
	for _, c := range []struct {
		name        string
		before      string // "" for a memory that was not there
		here, there string // "=" for no change, "" for gone
		want        string // here and there
		readOnly    string // here, where the store is read-only
		told        string // what the agent is told; for a read-only store only of a change that is lost
	}{
		{"nothing", "a", "=", "=", "a", "a", ""},
		{"changed here", "a", "b", "=", "b", "b", ""},
		{"changed there", "a", "=", "b", "b", "b", ""},
		{"changed alike", "a", "b", "b", "b", "b", ""},
		{"changed on both sides", "a", "b", "c", "c", "c", "your change is lost"},
		{"removed here", "a", "", "=", "", "", ""},
		{"removed there", "a", "=", "", "", "", ""},
		{"removed on both sides", "a", "", "", "", "", ""},
		{"removed here and changed there", "a", "", "b", "b", "b", "is back"},
		{"changed here and removed there", "a", "b", "", "b", "b", ""},
		{"made here", "", "b", "=", "b", "b", ""},
		{"made there", "", "=", "b", "b", "b", ""},
		{"made alike", "", "b", "b", "b", "b", ""},
		{"made on both sides", "", "b", "c", "c", "c", "your change is lost"},
	} {
		for _, access := range []string{api.MemoryReadWrite, api.MemoryReadOnly} {
			t.Run(c.name+" "+access, func(t *testing.T) {
				d := newDesk(t, files{"other": "x"})
				if c.before != "" {
					d.set("dir/m", c.before)
				}
				if told := d.mount(access); told != "" {
					t.Fatal(told)
				}
				there := c.before
				switch c.here {
				case "=":
				case "":
					d.remove("dir/m")
				default:
					d.write("dir/m", c.here)
				}
				if c.there != "=" {
					there = c.there
					d.set("dir/m", c.there)
				}
				told := d.sync(MemoryFinal)
				if (c.told == "") != (told == "") || !strings.Contains(told, c.told) {
					t.Errorf("the agent is told %q, want %q", told, c.told)
				}
				wantHere, wantThere := c.want, c.want
				if access == api.MemoryReadOnly {
					wantHere, wantThere = c.readOnly, there
				}
				with := func(content string) files {
					if content == "" {
						return files{"other": "x"}
					}
					return files{"other": "x", "dir/m": content}
				}
				d.want("afterwards", with(wantHere), with(wantThere))
				asked := len(d.asked)
				if access == api.MemoryReadOnly && asked > 0 {
					t.Errorf("of a read-only store were asked %q", d.asked)
				}
				if told := d.sync(MemoryFinal); told != "" || len(d.asked) != asked {
					t.Errorf("once more: %q, asked %q", told, d.asked[asked:])
				}
			})
		}
	}
}

// TestRemovalsAreLookedAtTwice: what is gone has time to come back.
func TestRemovalsAreLookedAtTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, files{"a": "1", "b": "2", "c": "3"})
		d.mount("")
		d.remove("a")
		d.remove("b")
		d.sync(MemoryDuring)
		time.Sleep(confirm - time.Second)
		d.write("b", "2")
		d.sync(MemoryDuring)
		d.want("too soon", files{"b": "2", "c": "3"}, files{"a": "1", "b": "2", "c": "3"})
		time.Sleep(2 * time.Second)
		d.remove("b")
		d.sync(MemoryDuring)
		d.want("in time", files{"c": "3"}, files{"b": "2", "c": "3"})
		d.sync(MemoryFinal)
		d.want("in the end", files{"c": "3"}, files{"c": "3"})
	})
}

// TestAFileBecomesADirectory: the old memory is in the way of the new one until it
// is deleted.
func TestAFileBecomesADirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, files{"a": "1", "b/c": "2", "d": "3"})
		d.mount("")
		d.remove("a")
		d.write("a/deep", "1")
		d.remove("b")
		d.write("b", "2")
		if told := d.sync(MemoryDuring); told != "" {
			t.Errorf("the agent is told %q", told)
		}
		time.Sleep(confirm)
		d.sync(MemoryDuring)
		all := files{"a/deep": "1", "b": "2", "d": "3"}
		d.want("afterwards", all, all)

		// What stays in the way the agent is told of, once.
		d.set("stuck/there", "x")
		d.write("stuck", "y")
		told := ""
		for range 10 {
			told += d.sync(MemoryDuring)
			time.Sleep(15 * time.Second)
		}
		if n := strings.Count(told, "is not kept"); n != 1 || !strings.Contains(told, "/stuck\"") {
			t.Errorf("the agent is told %q", told)
		}
	})
}

// TestNotAllAtOnce: a directory that is emptied, or gone, is no reason to forget.
func TestNotAllAtOnce(t *testing.T) {
	all := files{}
	for n := range 40 {
		all[fmt.Sprintf("dir/%02d", n)] = "x"
	}
	d := newDesk(t, maps.Clone(all))
	d.mount("")
	for name, lose := range map[string]func(){
		"the directory is gone": func() { d.remove(".") },
		"it is empty":           func() { d.remove("."); d.write("dir/x", ""); d.remove("dir") },
		"its files are gone":    func() { d.remove("dir") },
	} {
		lose()
		if told := d.sync(MemoryFinal); !strings.Contains(told, "filled from the memory store again") {
			t.Errorf("%s: the agent is told %q", name, told)
		}
		d.want(name, all, all)
	}
	for n := range 39 {
		d.remove(fmt.Sprintf("dir/%02d", n))
	}
	d.sync(MemoryFinal)
	if n := len(d.memories); n != 40-40/4 {
		t.Errorf("%d memories are left", n)
	}
	// Without its marker nobody knows whose directory it is.
	d.remove(api.MemoryMarker)
	before := maps.Clone(d.memories)
	for range 2 {
		if told := d.sync(MemoryFinal); !strings.Contains(told, "not kept for now") || !strings.Contains(told, api.MemoryMarker) {
			t.Errorf("without its marker the agent is told %q", told)
		}
	}
	if !maps.Equal(d.memories, before) {
		t.Error("without its marker it has changed the store")
	}
}

// TestWhatIsNoMemory leaves what cannot be one where it is, and says so once.
func TestWhatIsNoMemory(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, files{"a": "1", "b": "2", "c": "3", "d": "4"})
	d.mount("")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d.remove("a")
	check(os.Symlink(secret, d.path("a")))
	d.write("b", strings.Repeat("x", api.MaxMemoryContent+1))
	d.write("c", "\xff")
	d.remove("d")
	check(syscall.Mkfifo(d.path("d"), 0o644))
	check(os.Symlink(filepath.Dir(secret), d.path("outside")))
	check(os.Symlink("..", d.path("round")))
	d.write("bad\xffname", "x")
	d.write(passing+"x", "left by a worker that was killed")
	d.write("refused", "refuse me")
	deep := strings.Repeat("e/", api.MaxMemorySegments-1)
	d.write(deep+"last", "deep")
	d.write(deep+"too/deep", "x")
	d.write("fits", strings.Repeat("x", api.MaxMemoryContent))
	told := d.sync(MemoryFinal)
	for _, name := range []string{"/a\"", "/b\"", "/c\"", "/d\"", "/outside\"", "/round\"", `bad\xffname`, "/refused\""} {
		if n := strings.Count(told, name); n != 1 {
			t.Errorf("of %s the agent is told %d times:\n%s", name, n, told)
		}
	}
	want := files{"a": "1", "b": "2", "c": "3", "d": "4", deep + "last": "deep", "fits": strings.Repeat("x", api.MaxMemoryContent)}
	for range 2 {
		if !maps.Equal(d.memories, want) {
			t.Errorf("there is %q", slices.Sorted(maps.Keys(d.memories)))
		}
		if told := d.sync(MemoryFinal); told != "" {
			t.Errorf("once more the agent is told %q", told)
		}
	}
	d.write("refused", "fine")
	d.write("c", "fine")
	d.sync(MemoryFinal)
	if d.memories["refused"] != "fine" || d.memories["c"] != "fine" {
		t.Errorf("what was mended is %q and %q", d.memories["refused"], d.memories["c"])
	}
	// What comes from there takes the place of what is no memory.
	d.set("a", "theirs")
	if told := d.sync(MemoryDuring); !strings.Contains(told, "your change is lost") {
		t.Errorf("the agent is told %q", told)
	}
	if raw, err := os.ReadFile(secret); err != nil || string(raw) != "secret" {
		t.Errorf("out of the sandbox there is %q, %v", raw, err)
	}
	if got := d.here()["a"]; got != "theirs" {
		t.Errorf("it holds %q", got)
	}
}

// TestHostileDirectories lead nowhere.
func TestHostileDirectories(t *testing.T) {
	outside := t.TempDir()
	for name, lay := range map[string]func(d *desk) error{
		"the directory is a link out": func(d *desk) error { d.remove("."); return os.Symlink(outside, d.path(".")) },
		"a directory is a link out":   func(d *desk) error { d.remove("dir"); return os.Symlink(outside, d.path("dir")) },
		"a directory is a file":       func(d *desk) error { d.remove("dir"); return os.WriteFile(d.path("dir"), nil, 0o644) },
		"a file is a directory":       func(d *desk) error { d.remove("dir/m"); return os.MkdirAll(d.path("dir/m/x"), 0o755) },
		"the marker is a pipe": func(d *desk) error {
			d.remove(api.MemoryMarker)
			return syscall.Mkfifo(d.path(api.MemoryMarker), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, files{"dir/m": "1", "n": "2"})
			d.mount("")
			if err := lay(d); err != nil {
				t.Fatal(err)
			}
			d.set("dir/m", "changed")
			d.set("dir/more", "more")
			d.sync(MemoryDuring)
			d.sync(MemoryFinal)
			d.sync(MemoryRescue)
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("outside there is %v, %v", left, err)
			}
			if d.memories["n"] != "2" || d.memories["dir/more"] != "more" {
				t.Errorf("there is %q", d.memories)
			}
		})
	}
	t.Run("a server", func(t *testing.T) {
		d := newDesk(t, files{"../../escaped": "x", "a//b": "x", passing + "x": "x", api.MemoryMarker: "x", "fine": "x"})
		d.mount("")
		if got := d.here(); !maps.Equal(got, files{"fine": "x"}) {
			t.Errorf("here is %q", got)
		}
		d.sync(MemoryFinal)
		if len(d.asked) > 0 {
			t.Errorf("it has asked %q", d.asked)
		}
	})
}

// TestAnswersThatAreLost: what was sent is ours, whoever heard of it.
func TestAnswersThatAreLost(t *testing.T) {
	d := newDesk(t, files{"m": "1", "other": "x"})
	d.mount("")
	d.write("m", "2")
	d.write("new", "n1")
	d.after = map[string]func() error{"POST": func() error { return io.ErrUnexpectedEOF }}
	d.sync(MemoryDuring)
	d.restart() // killed as well
	d.mount("")
	d.after = nil
	d.write("m", "3")
	d.write("new", "n2")
	if told := d.sync(MemoryDuring); told != "" {
		t.Errorf("the agent is told %q", told)
	}
	all := files{"m": "3", "new": "n2", "other": "x"}
	d.want("afterwards", all, all)
}

// TestAWorkerIsKilled: the next one knows what was the same, and what was changed.
func TestAWorkerIsKilled(t *testing.T) {
	d := newDesk(t, files{"a": "1", "b": "2", "c": "3"})
	d.mount("")
	d.write("a", "mine")
	d.write("new", "n")
	d.set("b", "theirs")
	d.restart()
	if told := d.mount(""); told != "" {
		t.Errorf("the agent is told %q", told)
	}
	all := files{"a": "mine", "b": "theirs", "c": "3", "new": "n"}
	d.want("afterwards", all, all)
}

// TestRescue saves what can be saved, and changes nothing else.
func TestRescue(t *testing.T) {
	d := newDesk(t, files{"a": "1", "b": "2", "c": "3", "d": "4"})
	d.mount("")
	d.write("a", "mine")
	d.write("new", "n")
	d.remove("b")
	d.set("c", "theirs")
	d.write("d", "mine")
	d.set("d", "theirs")
	d.sync(MemoryRescue)
	d.want("afterwards", files{"a": "mine", "c": "3", "d": "mine", "new": "n"}, files{"a": "mine", "b": "2", "c": "theirs", "d": "theirs", "new": "n"})
}

// TestMountsThatFail leave nothing, and say why.
func TestMountsThatFail(t *testing.T) {
	d := newDesk(t, files{"a": "1", "b": "2", "c": "3"})
	pages := 0
	d.after = map[string]func() error{"GET": func() error {
		if pages++; pages == 2 {
			return answer(500)
		}
		return nil
	}}
	if told := d.mount(""); !strings.HasPrefix(told, mountPath+" is missing: list memory store") {
		t.Errorf("told %q", told)
	}
	if entries, err := os.ReadDir(d.path("")); err != nil || len(entries) > 0 {
		t.Errorf("half a memory is left: %v, %v", entries, err)
	}
	d.write("x", "the agent's own")
	if told := d.mount(""); !strings.Contains(told, "something is there already") {
		t.Errorf("told %q", told)
	}
	d.remove(".")
	if told := d.mount(""); told != "" {
		t.Errorf("told %q", told)
	}
	d.want("at last", files{"a": "1", "b": "2", "c": "3"}, files{"a": "1", "b": "2", "c": "3"})

	d.m.HasToken = false
	d.fails = map[string]error{"GET": answer(403)}
	if told := d.sync(MemoryDuring); !strings.Contains(told, "not kept for now") {
		t.Errorf("of a store that is refused by now: %q", told)
	}
	other := newDesk(t, files{})
	other.m.HasToken = false
	if told := other.mount(""); !strings.Contains(told, "sessions token") {
		t.Errorf("without a token: %q", told)
	}
}

// TestAServerThatDoesNotAnswer holds a session up for a while only.
func TestAServerThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, files{"a": "1"})
		d.m.Server = silent{d.remote}
		began := time.Now()
		if told := d.mount(""); !strings.Contains(told, "did not answer") {
			t.Errorf("told %q", told)
		}
		if took := time.Since(began); took != request {
			t.Errorf("it took %v", took)
		}
	})
}

type silent struct{ *remote }

func (silent) Do(ctx context.Context, _, _ string, _, _ any) error {
	<-ctx.Done()
	return ctx.Err()
}
