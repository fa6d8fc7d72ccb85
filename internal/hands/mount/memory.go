package mount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hearth/api"
)

// MemorySync is how much of a memory store's reconciliation is to be done.
type MemorySync int

// The kinds of reconciliation.
const (
	// MemoryDuring is for while the session goes on: files that are gone are given
	// time to come back before their memories are deleted.
	MemoryDuring MemorySync = iota
	// MemoryFinal is the last one of a session that is left well.
	MemoryFinal
	// MemoryRescue only uploads, for a session that is left in a hurry.
	MemoryRescue
)

const (
	// confirm is how long a file must have been gone for its memory to be deleted.
	confirm = 30 * time.Second
	// request bounds one request about a memory, so that a server that does not
	// answer holds up a session for a while only.
	request = 30 * time.Second
	// parallel is how many memories are fetched or sent at once.
	parallel = 16
	// page and fullPage are how many memories are listed at once, without and with
	// what they hold: the most that servers give.
	page, fullPage = "100", "20"
)

// One reconciliation deletes at most a quarter of a store's memories, and no fewer
// than fewDeletes and no more than manyDeletes.
const fewDeletes, manyDeletes = 8, 50

// store is a memory store that is mounted. What is exported outlasts the worker.
type store struct {
	Path     string `json:"path"` // in the sandbox
	ReadOnly bool   `json:"read_only"`
	// Synced is what is the same here and there, SHA-256 by path.
	Synced map[string]string `json:"synced"`
	// Sent is what has been sent and not been heard of.
	Sent map[string]string `json:"sent"`

	id      string
	seen    bool                 // by this worker
	gone    map[string]time.Time // when files were first found to be missing
	refused map[string]string    // what the server does not take as it is
	blocked map[string]time.Time // since when another memory's path is in the way; zero once told
}

// listed is a memory as servers list it.
type listed struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Path    string `json:"path"`
	SHA256  string `json:"content_sha256"`
	Content string `json:"content"`
}

// mountMemory mounts a memory store. One that an earlier worker has mounted is
// reconciled.
func (m *Mounter) mountMemory(ctx context.Context, r resource) (notes []string, err error) {
	if !m.HasToken {
		return nil, errors.New("the work item carried no sessions token, without which no memory store can be read")
	}
	s := m.stores[r.MemoryStoreID]
	if s == nil {
		s = &store{Path: r.MountPath, ReadOnly: r.Access == api.MemoryReadOnly}
		if err := m.begin(ctx, s, r.MemoryStoreID); err != nil {
			return nil, err
		}
		s.seen, m.stores[r.MemoryStoreID] = true, s
		m.Log.Info("mounted a memory store", "memory_store", r.MemoryStoreID, "path", s.Path, "memories", len(s.Synced))
		return nil, m.save(memoriesFile, m.stores)
	}
	if s.seen {
		return nil, nil
	}
	notes, err = m.syncMemory(ctx, s, MemoryDuring)
	s.seen = err == nil
	return notes, err
}

// begin mounts a store in a directory that is empty, but for what a worker may
// have put there that was killed.
func (m *Mounter) begin(ctx context.Context, s *store, id string) error {
	s.id = id
	t, err := m.openTree(s.Path, s.ReadOnly, true)
	if err != nil {
		return err
	}
	defer t.close()
	there, err := t.scan(id)
	if err != nil {
		return err
	}
	if !there.trusted && len(there.files)+len(there.unfit) > 0 {
		return errors.New("something is there already")
	}
	if _, err = m.fill(ctx, t, s); err != nil {
		// Half a memory is worse than none, even if the session ends.
		clearing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, t.clear(clearing))
	}
	return err
}

// fill makes the directory that of the store as it is there.
func (m *Mounter) fill(ctx context.Context, t *tree, s *store) (notes []string, err error) {
	s.Synced, s.Sent, s.gone = map[string]string{}, map[string]string{}, nil
	if err := t.put(api.MemoryMarker, marker(s.id)); err != nil {
		return nil, err
	}
	all, err := m.list(ctx, s.id, true)
	if err != nil {
		return nil, err
	}
	for name, one := range all {
		if err := t.put(name, one.Content); err != nil {
			m.Log.Warn("could not write a memory", "memory_store", s.id, "file", name, "error", err)
			notes = note(notes, fmt.Sprintf("%q could not be written: %v", path.Join(s.Path, name), err))
			continue
		}
		s.Synced[name] = one.SHA256
	}
	return notes, nil
}

// list lists a store's memories by path, relative to where it is mounted.
func (m *Mounter) list(ctx context.Context, storeID string, full bool) (map[string]listed, error) {
	query := url.Values{"view": {"basic"}, "limit": {page}}
	if full {
		query = url.Values{"view": {"full"}, "limit": {fullPage}}
	}
	all := map[string]listed{}
	for {
		var page struct {
			Data     []listed `json:"data"`
			NextPage *string  `json:"next_page"`
		}
		if err := m.ask(ctx, "GET", storePath(storeID)+"?"+query.Encode(), nil, &page); err != nil {
			return nil, fmt.Errorf("list memory store %s: %w", storeID, err)
		}
		for _, one := range page.Data {
			name := strings.TrimLeft(one.Path, "/")
			if one.Type == api.TypeMemory && name != api.MemoryMarker && !strings.HasPrefix(path.Base(name), passing) {
				all[name] = one
			}
		}
		if page.NextPage == nil || *page.NextPage == "" {
			return all, nil
		}
		query.Set("page", *page.NextPage)
	}
}

func storePath(id string) string { return "/v1/memory_stores/" + url.PathEscape(id) + "/memories" }

func (m *Mounter) ask(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, request, fmt.Errorf("the server did not answer within %v", request))
	defer cancel()
	err := m.Server.Do(ctx, method, path, in, out)
	if errors.Is(err, context.DeadlineExceeded) {
		err = context.Cause(ctx)
	}
	return err
}

// status is that of the answer an error is about, or 0.
func status(err error) int {
	var answer interface{ Status() int }
	if errors.As(err, &answer) {
		return answer.Status()
	}
	return 0
}

// SyncMemories reconciles the memory stores that are mounted. A store that cannot
// be is a failure; notes are what the agent should know of its files.
func (m *Mounter) SyncMemories(ctx context.Context, how MemorySync) (failures []Failure, notes []string) {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	for _, id := range slices.Sorted(maps.Keys(m.stores)) {
		s := m.stores[id]
		said, err := m.syncMemory(ctx, s, how)
		notes = append(notes, said...)
		if err != nil && ctx.Err() == nil {
			failures = append(failures, Failure{ResourceID: id, Path: s.Path, Err: err, Lapsed: true})
		}
	}
	return failures, notes
}

// syncMemory reconciles one store.
func (m *Mounter) syncMemory(ctx context.Context, s *store, how MemorySync) (notes []string, err error) {
	if how == MemoryRescue && s.ReadOnly {
		return nil, nil
	}
	t, err := m.openTree(s.Path, s.ReadOnly, how != MemoryRescue)
	if err != nil {
		return nil, err
	}
	defer t.close()
	there, err := t.scan(s.id)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %w", s.Path, err)
	case !there.trusted && len(there.files) > 0:
		return nil, fmt.Errorf("the file %s in it is not as it was; remove the whole directory to have it mounted anew", api.MemoryMarker)
	case !there.trusted && how == MemoryRescue:
		return nil, nil
	case !there.trusted:
		return m.anew(ctx, t, s, "the directory was gone")
	}
	if how == MemoryRescue && !s.dirty(there.files) {
		return nil, nil
	}
	remote, err := m.list(ctx, s.id, false)
	if err != nil {
		return nil, err
	}
	s.settle(remote)
	if len(there.files) == 0 && len(s.Synced) > 1 && how != MemoryRescue {
		return m.anew(ctx, t, s, "all files were gone at once")
	}
	r := &reconciliation{Mounter: m, store: s, tree: t, local: there.files, unfit: there.unfit, remote: remote, how: how}
	return r.run(ctx)
}

// anew mounts a store again whose directory is no evidence of what was removed.
func (m *Mounter) anew(ctx context.Context, t *tree, s *store, why string) (notes []string, err error) {
	m.Log.Warn("mounting a memory store anew", "memory_store", s.id, "path", s.Path, "because", why)
	notes, err = m.fill(ctx, t, s)
	notes = append(notes, fmt.Sprintf("%s: %s; it has been filled from the memory store again; remove memories one by one", s.Path, why))
	return notes, errors.Join(err, m.save(memoriesFile, m.stores))
}

// dirty tells whether anything here may be news to the server.
func (s *store) dirty(local map[string]string) bool {
	for name, sum := range local {
		if s.Synced[name] != sum && s.refused[name] != sum {
			return true
		}
	}
	return len(s.Sent) > 0
}

// settle finds out what became of what was sent: a memory that holds just that is
// what was sent, and not somebody else's change.
func (s *store) settle(remote map[string]listed) {
	for name, sum := range s.Sent {
		if remote[name].SHA256 == sum {
			s.Synced[name] = sum
		}
	}
	s.Sent = map[string]string{}
}

// step is what is to be done about a path.
type step int

const (
	nothing step = iota
	forget       // it is neither here nor there
	adopt        // both hold the same
	pull         // take what is there
	yield        // take what is there in place of a change made here
	restore      // take what is there in place of a file that was removed here
	drop         // remove it here
	create       // make a memory of it
	upload       // update the memory
	erase        // delete the memory
)

// decide compares what a path holds here and there with what both held the last
// time; each is "" for nothing. The store's own changes win.
func decide(here, there, before string, readOnly bool) step {
	mine, theirs := here != before, there != before
	switch {
	case here == "" && there == "":
		return forget
	case here == there:
		return adopt
	case there == "" && before != "" && !mine:
		return drop
	case there == "" && readOnly:
		return forget // and leave the file
	case there == "":
		return create
	case here == "" && before == "":
		return pull
	case here == "" && theirs:
		return restore
	case here == "" && readOnly:
		return nothing
	case here == "":
		return erase
	case mine && theirs:
		return yield
	case theirs:
		return pull
	case readOnly:
		return nothing
	}
	return upload
}

// reconciliation is one of a store.
type reconciliation struct {
	*Mounter
	*store
	tree    *tree
	local   map[string]string
	unfit   map[string]bool
	remote  map[string]listed
	how     MemorySync
	deletes int
	results chan func() // what a step has changed, applied one after the other
	notes   []string
}

func (r *reconciliation) run(ctx context.Context) ([]string, error) {
	steps := map[string]step{}
	for _, names := range []map[string]string{r.local, r.Synced} {
		for name := range names {
			steps[name] = nothing
		}
	}
	for name := range r.remote {
		steps[name] = nothing
	}
	for name := range r.unfit {
		steps[name] = nothing
	}
	for name := range steps {
		steps[name] = r.plan(name)
		if steps[name] == create || steps[name] == upload {
			r.Sent[name] = r.local[name]
		}
	}
	// Noted first: what was sent before a crash must not look like somebody else's.
	if err := r.save(memoriesFile, r.stores); err != nil {
		return nil, err
	}
	r.results = make(chan func())
	var group errgroup.Group
	group.SetLimit(parallel)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for apply := range r.results {
			apply()
		}
	}()
	// Memories go before others come, which may take their paths.
	for _, phase := range [][]step{{forget, adopt, drop, erase}, {pull, yield, restore, create, upload}} {
		for _, name := range slices.Sorted(maps.Keys(steps)) {
			if slices.Contains(phase, steps[name]) {
				group.Go(func() error { r.take(ctx, steps[name], name); return nil })
			}
		}
		_ = group.Wait() // what a step could not do is in the notes, and tried again
	}
	close(r.results)
	<-done
	if ctx.Err() != nil {
		r.Log.Warn("the reconciliation of a memory store was cut short", "memory_store", r.id, "path", r.Path)
	}
	return r.notes, r.save(memoriesFile, r.stores)
}

// plan decides about a path, as far as this reconciliation may go.
func (r *reconciliation) plan(name string) step {
	here, there, before := r.local[name], r.remote[name].SHA256, r.Synced[name]
	if r.unfit[name] {
		here = unfit // which is not what was there, and is not gone
	}
	s := decide(here, there, before, r.ReadOnly)
	if here != "" {
		delete(r.gone, name)
	}
	switch {
	case (s == create || s == upload) && here == unfit && r.refused[name] != here:
		r.refuse(name, refusal{here, fmt.Errorf("it is no text file of at most %d KiB", api.MaxMemoryContent>>10)})
		return nothing
	case (s == create || s == upload) && r.refused[name] == here:
		return nothing
	case r.how == MemoryRescue && s != create && s != upload && s != adopt:
		return nothing
	case s == erase && !r.confirmed(name):
		return nothing
	}
	return s
}

// unfit stands for the SHA-256 of what cannot be a memory.
const unfit = "unfit"

// confirmed tells whether a memory may be deleted because its file is gone.
func (r *reconciliation) confirmed(name string) bool {
	if r.gone == nil {
		r.gone = map[string]time.Time{}
	}
	if _, known := r.gone[name]; !known {
		r.gone[name] = time.Now()
	}
	if r.how != MemoryFinal && time.Since(r.gone[name]) < confirm {
		return false
	}
	r.deletes++
	return r.deletes <= max(fewDeletes, min(manyDeletes, len(r.Synced)/4))
}

// take takes a step.
func (r *reconciliation) take(ctx context.Context, s step, name string) {
	if ctx.Err() != nil {
		return
	}
	var now string
	var err error
	switch s {
	case forget:
	case adopt:
		now = r.local[name]
	case drop:
		now, err = r.dropHere(name)
	case pull, yield, restore:
		now, err = r.pull(ctx, s, name)
	case create, upload:
		now, err = r.push(ctx, s, name)
	case erase:
		now, err = r.eraseThere(ctx, name)
	}
	r.results <- func() {
		if err != nil {
			r.note(ctx, s, name, err)
			return
		}
		delete(r.Sent, name)
		delete(r.gone, name)
		delete(r.refused, name)
		delete(r.blocked, name)
		if now == "" {
			delete(r.Synced, name)
		} else {
			r.Synced[name] = now
		}
		if s == yield || s == restore {
			r.note(ctx, s, name, nil)
		}
	}
}

// errLater is of a step that the next reconciliation is to take.
var errLater = errors.New("changed meanwhile")

// refusal is that of a server which would refuse the same again.
type refusal struct {
	sum string
	err error
}

func (r refusal) Error() string { return r.err.Error() }

// errBlocked is of a file that cannot be a memory while another one is there.
type errBlocked struct{ error }

// wait waits for a memory to go that is in the way, for the agent may have removed
// its file just now, and tells the agent of one that stays.
func (r *reconciliation) wait(name string, err error) {
	since, known := r.blocked[name]
	switch {
	case !known:
		if r.blocked == nil {
			r.blocked = map[string]time.Time{}
		}
		r.blocked[name] = time.Now()
	case !since.IsZero() && time.Since(since) > 2*confirm:
		r.blocked[name] = time.Time{}
		r.say(name, "is not kept: "+err.Error())
	}
}

// note tells the agent what became of a file, and the log.
func (r *reconciliation) note(ctx context.Context, s step, name string, err error) {
	var no refusal
	var blocked errBlocked
	switch {
	case errors.Is(err, errLater) || ctx.Err() != nil:
		return
	case errors.As(err, &no):
		r.refuse(name, no)
	case errors.As(err, &blocked):
		r.wait(name, err)
	case err != nil:
		r.Log.Warn("could not reconcile a memory; trying again later", "memory_store", r.id, "file", path.Join(r.Path, name), "error", err)
	case s == yield:
		r.say(name, "was changed by somebody else meanwhile: it holds what they wrote, and your change is lost")
	case s == restore:
		r.say(name, "was removed by you and changed by somebody else meanwhile: it is back")
	}
}

// maxNotes bounds what the agent is told of at once.
const maxNotes = 20

// say tells the agent, and the log, that a change was not kept.
func (r *reconciliation) say(name, text string) {
	r.Log.Warn("a change of a memory was not kept", "memory_store", r.id, "file", path.Join(r.Path, name), "why", text)
	r.notes = note(r.notes, fmt.Sprintf("%q %s", path.Join(r.Path, name), text))
}

// note adds to what the agent is told, if there is not too much of that.
func note(notes []string, text string) []string {
	switch n := len(notes); {
	case n < maxNotes:
		return append(notes, text)
	case n == maxNotes:
		return append(notes, "there is more of that kind")
	}
	return notes
}

// refuse remembers what is not to be sent again as it is.
func (r *reconciliation) refuse(name string, no refusal) {
	if r.refused == nil {
		r.refused = map[string]string{}
	}
	r.refused[name] = no.sum
	delete(r.Sent, name)
	r.say(name, "is not kept: "+no.Error())
}

// dropHere removes the file of a memory that has been deleted, unless it has been
// changed meanwhile.
func (r *reconciliation) dropHere(name string) (string, error) {
	now, err := r.tree.now(name)
	if err != nil {
		return "", err
	}
	if now != "" && now != r.local[name] {
		return "", errLater
	}
	if now == "" {
		return "", nil
	}
	return "", r.tree.remove(name)
}

// pull writes a memory to its file, unless that has been changed meanwhile.
func (r *reconciliation) pull(ctx context.Context, s step, name string) (string, error) {
	var one listed
	if err := r.ask(ctx, "GET", r.memoryPath(name)+"?view=full", nil, &one); err != nil {
		if status(err) == 404 {
			err = errLater
		}
		return "", err
	}
	if now, err := r.tree.now(name); err == nil && now != r.local[name] {
		return "", errLater // what cannot be read cannot be kept either
	}
	if err := r.tree.put(name, one.Content); err != nil {
		return "", err
	}
	return one.SHA256, nil
}

func (r *reconciliation) memoryPath(name string) string {
	return storePath(r.id) + "/" + url.PathEscape(r.remote[name].ID)
}

// push makes a file the content of its memory.
func (r *reconciliation) push(ctx context.Context, s step, name string) (string, error) {
	info, err := r.tree.root.Lstat(name)
	if err != nil {
		return "", errLater
	}
	raw, err := r.tree.read(name, info.Mode().Type())
	if err != nil || sum(raw) != r.local[name] {
		return "", errLater
	}
	type body struct {
		Path         string         `json:"path,omitempty"`
		Content      string         `json:"content"`
		Precondition map[string]any `json:"precondition,omitempty"`
	}
	var made listed
	if s == upload {
		condition := map[string]any{"type": "content_sha256", "content_sha256": r.remote[name].SHA256}
		err = r.ask(ctx, "POST", r.memoryPath(name), body{Content: string(raw), Precondition: condition}, &made)
		switch status(err) {
		case 404: // deleted meanwhile, so that what is here is all there is
			s = create
		case 409:
			return "", errLater // changed meanwhile; or it is ours, which the next list will tell
		}
	}
	if s == create {
		err = r.ask(ctx, "POST", storePath(r.id), body{Path: "/" + name, Content: string(raw)}, &made)
	}
	switch status(err) {
	case 400, 413:
		return "", refusal{r.local[name], err}
	case 409:
		return "", errBlocked{err}
	}
	return made.SHA256, err
}

// eraseThere deletes the memory of a file that is gone.
func (r *reconciliation) eraseThere(ctx context.Context, name string) (string, error) {
	if now, err := r.tree.now(name); err != nil || now != "" {
		return "", errLater
	}
	if now, err := r.tree.now(api.MemoryMarker); err != nil || now != sum([]byte(marker(r.id))) {
		return "", errLater
	}
	err := r.ask(ctx, "DELETE", r.memoryPath(name)+"?expected_content_sha256="+url.QueryEscape(r.remote[name].SHA256), nil, nil)
	switch status(err) {
	case 404:
		return "", nil
	case 409, 412:
		return "", errLater
	}
	return "", err
}

// loadMemories reads what is known of the session's stores.
func (m *Mounter) loadMemories() error {
	if err := m.load(memoriesFile, &m.stores); err != nil {
		return err
	}
	for id, s := range m.stores {
		s.id = id
		if s.Synced == nil {
			s.Synced = map[string]string{}
		}
		if s.Sent == nil {
			s.Sent = map[string]string{}
		}
	}
	return nil
}
