package conformance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/test/run"
)

// TestMemories runs sessions that remember, with our workers and the official ones.
func TestMemories(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for _, kind := range []string{"hearth namespace", "hearth gvisor", "official Go", "official TypeScript"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(kind, "official") {
				// They mount on their own host, where the server says.
				if err := os.MkdirAll("/mnt/memory", 0o755); err != nil {
					t.Skipf("the official workers need /mnt/memory: %v", err)
				}
			}
			s, dir := newSite(t, b, kind), t.TempDir()
			workers[kind](t, s, dir)
			t.Run("remembers", func(t *testing.T) { remembers(t, s) })
			if strings.HasPrefix(kind, "hearth") {
				t.Run("conflict", func(t *testing.T) { conflict(t, s, dir) })
				t.Run("gone", func(t *testing.T) { gone(t, s) })
			}
		})
	}
	t.Run("hearth process", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, b, "process")
		workers["hearth process"](t, s, t.TempDir())
		notes := s.store(t)
		c := s.startWith(t, "$ true", notes.mounted(""))
		texts, _ := c.results(c.end(1))
		if !strings.Contains(texts[0], notes.dir+" is missing: ") {
			t.Errorf("the first result is %q", texts[0])
		}
	})
}

// store is a memory store.
type store struct {
	t       *testing.T
	sdk     *anthropic.Client
	id, dir string
}

// store makes a memory store with a name of its own.
func (s *site) store(t *testing.T) store {
	t.Helper()
	made, err := s.Client.SDK().Beta.MemoryStores.New(t.Context(), anthropic.BetaMemoryStoreNewParams{Name: api.NewID("Notes")})
	if err != nil {
		t.Fatal(err)
	}
	return store{t, s.Client.SDK(), made.ID, "/mnt/memory/" + strings.ReplaceAll(strings.ToLower(made.Name), "_", "-")}
}

func (s store) mounted(access anthropic.BetaManagedAgentsMemoryStoreResourceParamAccess) anthropic.BetaSessionNewParamsResourceUnion {
	return anthropic.BetaSessionNewParamsResourceUnion{OfMemoryStore: &anthropic.BetaManagedAgentsMemoryStoreResourceParam{
		Type: anthropic.BetaManagedAgentsMemoryStoreResourceParamTypeMemoryStore, MemoryStoreID: s.id, Access: access,
	}}
}

func (s store) add(path, content string) *anthropic.BetaManagedAgentsMemory {
	s.t.Helper()
	m, err := s.sdk.Beta.MemoryStores.Memories.New(s.t.Context(), s.id, anthropic.BetaMemoryStoreMemoryNewParams{Path: path, Content: anthropic.String(content)})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// all is what the store holds, by path.
func (s store) all() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	pager := s.sdk.Beta.MemoryStores.Memories.ListAutoPaging(s.t.Context(), s.id, anthropic.BetaMemoryStoreMemoryListParams{View: anthropic.BetaManagedAgentsMemoryViewFull})
	for pager.Next() {
		all[pager.Current().Path] = pager.Current().Content
	}
	if err := pager.Err(); err != nil {
		s.t.Fatal(err)
	}
	return all
}

// becomes waits until the store holds just that.
func (s store) becomes(want map[string]string) {
	s.t.Helper()
	var got map[string]string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the store holds %q", got)
		}
	}()
	run.Eventually(s.t, fmt.Sprintf("memory store %s holds %q", s.id, want), func() bool {
		got = s.all()
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
}

// remembers has one session write what the next one reads.
func remembers(t *testing.T, s *site) {
	notes, rules := s.store(t), s.store(t)
	notes.add("/team/who.md", "alice\n")
	notes.add("/old.md", "old\n")
	notes.add("/stays.md", "é\r\n")
	rules.add("/rule", "be kind\n")
	c := s.startWith(t, strings.NewReplacer("NOTES", notes.dir, "RULES", rules.dir).Replace(`$ cat NOTES/team/who.md RULES/rule
$ mkdir -p NOTES/deep/er && echo new >NOTES/deep/er/new.md && echo bob >>NOTES/team/who.md && rm NOTES/old.md
$ ln -s /etc/passwd NOTES/link; mkfifo NOTES/pipe; head -c 200000 /dev/zero >NOTES/large; printf '\377' >NOTES/binary; true
read NOTES/team/who.md
write NOTES/written.md by a tool
$ (echo be unkind >RULES/rule; echo more >RULES/more) 2>/dev/null; true`),
		notes.mounted(""), rules.mounted(anthropic.BetaManagedAgentsMemoryStoreResourceParamAccessReadOnly))
	c.expect(c.end(1), "alice\nbe kind", "", "", "alice\nbob", "", "")
	notes.becomes(map[string]string{"/team/who.md": "alice\nbob\n", "/deep/er/new.md": "new\n", "/written.md": "by a tool\n", "/stays.md": "é\r\n"})
	rules.becomes(map[string]string{"/rule": "be kind\n"})
	for v := notes.sdk.Beta.MemoryStores.MemoryVersions.ListAutoPaging(t.Context(), notes.id, anthropic.BetaMemoryStoreMemoryVersionListParams{SessionID: anthropic.String(c.id)}); v.Next(); {
		if one := v.Current(); one.CreatedBy.Type != "session_actor" || one.CreatedBy.SessionID != c.id {
			t.Errorf("a version of the session's is by %+v", one.CreatedBy)
		}
	}

	// Another session knows, and so does the first one of what came meanwhile.
	next := s.startWith(t, "$ cat "+notes.dir+"/team/who.md "+notes.dir+"/written.md; echo carol >>"+notes.dir+"/team/who.md", notes.mounted(""))
	next.expect(next.end(1), "alice\nbob\nby a tool")
	notes.becomes(map[string]string{"/team/who.md": "alice\nbob\ncarol\n", "/deep/er/new.md": "new\n", "/written.md": "by a tool\n", "/stays.md": "é\r\n"})
	if sessions, err := c.sdk.Beta.Sessions.List(t.Context(), anthropic.BetaSessionListParams{MemoryStoreID: anthropic.String(notes.id)}); err != nil || len(sessions.Data) != 2 {
		t.Errorf("%d sessions have the store mounted: %v", len(sessions.Data), err)
	}
	c.say("$ tail -1 " + notes.dir + "/team/who.md")
	texts, _ := c.results(c.end(2))
	if got := texts[len(texts)-1]; !strings.Contains(got, "carol") {
		t.Errorf("in its second turn the session reads %q", got)
	}
}

// conflict has somebody else change what the agent changes, too.
func conflict(t *testing.T, s *site, dir string) {
	notes := s.store(t)
	m := notes.add("/a.md", "before\n")
	c := s.startWith(t, "$ echo mine >"+notes.dir+"/a.md; until test -e go; do sleep 0.05; done", notes.mounted(""))
	place := filepath.Join(dir, "sessions", c.id)
	file := filepath.Join(place, "mnt", "memory", path.Base(notes.dir), "a.md")
	run.Eventually(t, "the agent has changed the memory", func() bool {
		raw, err := os.ReadFile(file)
		return err == nil && string(raw) == "mine\n"
	})
	_, err := c.sdk.Beta.MemoryStores.Memories.Update(t.Context(), m.ID, anthropic.BetaMemoryStoreMemoryUpdateParams{MemoryStoreID: notes.id, Content: anthropic.String("theirs\n")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(place, "work", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.end(1)
	run.Eventually(t, "the agent has their change", func() bool {
		raw, err := os.ReadFile(file)
		return err == nil && string(raw) == "theirs\n"
	})
	c.say("$ cat " + notes.dir + "/a.md")
	texts, _ := c.results(c.end(2))
	if got := texts[len(texts)-1]; !strings.HasSuffix(strings.TrimSpace(got), "theirs") {
		t.Errorf("after the conflict it reads %q", got)
	}
	notes.becomes(map[string]string{"/a.md": "theirs\n"})
}

// gone has a session do without a store that has been deleted.
func gone(t *testing.T, s *site) {
	notes, others := s.store(t), s.store(t)
	others.add("/a", "here\n")
	c := s.open(t, []anthropic.BetaAgentNewParamsToolUnion{toolset(api.PolicyAlwaysAllow)}, []anthropic.BetaSessionNewParamsResourceUnion{notes.mounted(""), others.mounted("")})
	if _, err := c.sdk.Beta.MemoryStores.Delete(t.Context(), notes.id, anthropic.BetaMemoryStoreDeleteParams{}); err != nil {
		t.Fatal(err)
	}
	c.say("$ cat " + others.dir + "/a\n$ true")
	log := c.end(1)
	texts, _ := c.results(log)
	if !strings.HasPrefix(texts[0], "["+notes.dir+" is missing: ") || !strings.Contains(texts[0], "here") || strings.Contains(texts[1], "missing") {
		t.Errorf("the results are %q", texts)
	}
	reports := 0
	for _, e := range log {
		if e.Type == api.EventSessionError && strings.Contains(e.Error.Message, notes.dir+" is missing") {
			reports++
		}
	}
	if reports != 1 {
		t.Errorf("it is on record %d times\n%s", reports, c.story())
	}
	var answer *anthropic.Error
	if _, err := c.sdk.Beta.MemoryStores.Get(t.Context(), notes.id, anthropic.BetaMemoryStoreGetParams{}); !errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound {
		t.Errorf("a deleted store: %v", err)
	}
}
