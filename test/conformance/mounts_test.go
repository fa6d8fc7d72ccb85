package conformance

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/test/run"
)

// TestMounts runs sessions that have files and repositories, and leave files.
func TestMounts(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for _, kind := range []string{"hearth namespace", "hearth gvisor"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, dir := newSite(t, b, kind), t.TempDir()
			workers[kind](t, s, dir)
			t.Run("in and out", func(t *testing.T) { inAndOut(t, s) })
			t.Run("what cannot be had", func(t *testing.T) { absent(t, s) })
			t.Run("a repository that has moved", func(t *testing.T) { moved(t, s) })
		})
	}
	t.Run("hearth process", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, b, "process")
		workers["hearth process"](t, s, t.TempDir())
		c := s.startWith(t, "$ cat in.csv\n$ true", s.upload(t, "in.csv", "a,b\n").at("/workspace/in.csv"), s.upload(t, "other", "").at("/mnt/session/uploads/other"))
		texts, _ := c.results(c.end(1))
		if !strings.Contains(texts[0], "/mnt/session/uploads/other is missing: ") || !strings.Contains(texts[0], "no file system of its own") || !strings.Contains(texts[0], "a,b\n") {
			t.Errorf("the first result is %q", texts[0])
		}
	})
}

// TestMountedTooLarge: what a session may not have on disk is not put there.
func TestMountedTooLarge(t *testing.T) {
	t.Parallel()
	s := newSite(t, run.Serve(t), "too large")
	cmd := run.Hearth(t, "worker", "--base-url", s.URL, "--environment-id", s.environmentID, "--engine", "namespace", "--state", t.TempDir(), "--disk", "1MiB")
	cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
	run.Begin(t, cmd)
	fits := s.upload(t, "fits", strings.Repeat("x", 600<<10)).at("")
	large := s.upload(t, "large", strings.Repeat("x", 2<<20)).at("/mnt/session/uploads/large")
	together := s.upload(t, "together", strings.Repeat("y", 600<<10)).at("/mnt/session/uploads/together")
	c := s.startWith(t, "$ ls /mnt/session/uploads | wc -l", fits, large, together)
	texts, _ := c.results(c.end(1))
	for _, want := range []string{"uploads/large is missing: file file_", "has 2097152 bytes, the session may have 1048576 on disk", "uploads/together is missing", "and 614400 are mounted already"} {
		if !strings.Contains(texts[0], want) {
			t.Errorf("the result is %q, want %q in it", texts[0], want)
		}
	}
	if !strings.HasSuffix(strings.TrimSpace(texts[0]), "\n1") {
		t.Errorf("the result is %q, want one file there", texts[0])
	}
}

// gitToken is what the repository is read with.
const gitToken = "ghp_a0token0of0the0repository"

// gitServer serves a repository of two commits to who knows the token, and
// returns its address and the first commit.
func gitServer(t *testing.T) (address, first string) {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"}, args...)...)
		cmd.Dir = filepath.Join(dir, "project")
		if args[0] == "init" {
			cmd.Dir = dir
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "project")
	for _, n := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, "project", "version"), []byte(n+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", ".")
		git("commit", "-m", n)
	}
	git("config", "http.receivepack", "false")
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("x-access-token:"+gitToken)) {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/project", git("rev-parse", "HEAD~1")
}

// uploaded is a file on the server.
type uploaded struct{ id string }

func (s *site) upload(t *testing.T, name, content string) uploaded {
	t.Helper()
	f, err := s.Client.SDK().Beta.Files.Upload(t.Context(), anthropic.BetaFileUploadParams{File: anthropic.File(strings.NewReader(content), name, "text/plain")})
	if err != nil {
		t.Fatal(err)
	}
	return uploaded{f.ID}
}

func (u uploaded) params() *anthropic.BetaManagedAgentsFileResourceParams {
	return &anthropic.BetaManagedAgentsFileResourceParams{FileID: u.id, Type: anthropic.BetaManagedAgentsFileResourceParamsTypeFile}
}

func (u uploaded) at(path string) anthropic.BetaSessionNewParamsResourceUnion {
	p := u.params()
	if path != "" {
		p.MountPath = anthropic.String(path)
	}
	return anthropic.BetaSessionNewParamsResourceUnion{OfFile: p}
}

// startWith begins a session that has resources.
func (s *site) startWith(t *testing.T, message string, resources ...anthropic.BetaSessionNewParamsResourceUnion) *chat {
	t.Helper()
	c := s.open(t, []anthropic.BetaAgentNewParamsToolUnion{toolset(api.PolicyAlwaysAllow)}, resources)
	c.say(message)
	return c
}

func inAndOut(t *testing.T, s *site) {
	address, first := gitServer(t)
	// Neither as it is nor as it goes over the wire; and not found in the command that looks.
	encoded := base64.StdEncoding.EncodeToString([]byte("x-access-token:" + gitToken))[20:40]
	secrets := fmt.Sprintf("'[%s]%s|[%s]%s'", gitToken[:1], gitToken[1:], encoded[:1], encoded[1:])
	upload, table, later := s.upload(t, "note.txt", "a note\n"), s.upload(t, "table.csv", "a,b\n"), s.upload(t, "later.txt", "added later\n")
	c := s.startWith(t, fmt.Sprintf(`$ cat /mnt/session/uploads/%s data/table.csv
$ cd project && git log --format=%%s && git rev-parse HEAD && cat version
$ git remote get-url origin; grep -rE %s /workspace /proc/*/environ /proc/*/cmdline 2>/dev/null || echo nowhere
$ echo three >version && git -c user.name=a -c user.email=a@example.com commit -qam three && git log --format=%%s | head -1
$ mkdir -p /mnt/session/outputs/sub && echo first >/mnt/session/outputs/sub/report.txt && mkfifo /mnt/session/outputs/pipe && ln -s /etc/passwd /mnt/session/outputs/link
write /mnt/session/outputs/b.txt written
read /mnt/session/uploads/%s`, upload.id, secrets, upload.id),
		upload.at(""), table.at("/workspace/data/table.csv"),
		anthropic.BetaSessionNewParamsResourceUnion{OfGitHubRepository: &anthropic.BetaManagedAgentsGitHubRepositoryResourceParams{
			Type: anthropic.BetaManagedAgentsGitHubRepositoryResourceParamsTypeGitHubRepository, URL: address, AuthorizationToken: gitToken,
			Checkout: anthropic.BetaManagedAgentsGitHubRepositoryResourceParamsCheckoutUnion{OfCommit: &anthropic.BetaManagedAgentsCommitCheckoutParam{Sha: first, Type: anthropic.BetaManagedAgentsCommitCheckoutTypeCommit}},
		}})
	c.expect(c.end(1), "a note\na,b\n", "one\n"+first+"\none\n", address+"\nnowhere", "three", "", "", "a note")
	if got := c.files(2); got["sub_report.txt"] != "first\n" || got["b.txt"] != "written\n" {
		t.Errorf("the session left %q", got)
	}

	// Between turns one file comes, one goes, and an output changes.
	_, err := c.sdk.Beta.Sessions.Resources.Add(t.Context(), c.id, anthropic.BetaSessionResourceAddParams{BetaManagedAgentsFileResourceParams: *later.params()})
	if err != nil {
		t.Fatal(err)
	}
	for r := c.sdk.Beta.Sessions.Resources.ListAutoPaging(t.Context(), c.id, anthropic.BetaSessionResourceListParams{}); r.Next(); {
		if one := r.Current(); one.FileID == table.id {
			if _, err := c.sdk.Beta.Sessions.Resources.Delete(t.Context(), one.ID, anthropic.BetaSessionResourceDeleteParams{SessionID: c.id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.say(fmt.Sprintf("$ cat /mnt/session/uploads/%s; ls /workspace/data; cd /workspace/project; git log --format=%%s | head -1\n$ echo second >>/mnt/session/outputs/sub/report.txt", later.id))
	texts, _ := c.results(c.end(2))
	if got := texts[len(texts)-2]; got != "added later\nthree\n" && got != "added later\nthree" {
		t.Errorf("in the second turn it says %q", got)
	}
	run.Eventually(t, "the output has been replaced", func() bool { return c.files(2)["sub_report.txt"] == "first\nsecond\n" })
}

// files awaits that many files of the session, and returns what is in them.
func (c *chat) files(n int) map[string]string {
	c.t.Helper()
	got := map[string]string{}
	run.Eventually(c.t, fmt.Sprintf("the session has left %d files", n), func() bool {
		clear(got)
		for f := c.sdk.Beta.Files.ListAutoPaging(c.t.Context(), anthropic.BetaFileListParams{ScopeID: anthropic.String(c.id)}); f.Next(); {
			response, err := c.sdk.Beta.Files.Download(c.t.Context(), f.Current().ID, anthropic.BetaFileDownloadParams{})
			if err != nil {
				return false // replaced meanwhile
			}
			raw, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				return false
			}
			got[f.Current().Filename] = string(raw)
		}
		return len(got) == n
	})
	return got
}

func absent(t *testing.T, s *site) {
	address, _ := gitServer(t)
	c := s.startWith(t, "$ ls\n$ ls", anthropic.BetaSessionNewParamsResourceUnion{OfGitHubRepository: &anthropic.BetaManagedAgentsGitHubRepositoryResourceParams{
		Type: anthropic.BetaManagedAgentsGitHubRepositoryResourceParamsTypeGitHubRepository, URL: address, AuthorizationToken: "a-wrong-token",
	}})
	log := c.end(1)
	texts, _ := c.results(log)
	if !strings.HasPrefix(texts[0], "[/workspace/project is missing: git clone of "+address) || strings.Contains(texts[1], "missing") {
		t.Errorf("the results are %q", texts)
	}
	reports := 0
	for _, e := range log {
		if e.Type == api.EventSessionError && strings.Contains(fmt.Sprint(e.Error), "/workspace/project is missing") {
			reports++
		}
	}
	if reports != 1 {
		t.Errorf("it is on record %d times\n%s", reports, c.story())
	}
}

// moved has two repositories behind redirects. The token goes to the host it was given
// for and to no other, though that one asks for it.
func moved(t *testing.T, s *site) {
	address, _ := gitServer(t)
	elsewhere, _ := gitServer(t)
	there, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/old"); ok {
			http.Redirect(w, r, "/project"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
		} else if rest, ok := strings.CutPrefix(r.URL.Path, "/away"); ok {
			http.Redirect(w, r, elsewhere+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
		} else {
			httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: there.Host}).ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	at := func(name string) anthropic.BetaSessionNewParamsResourceUnion {
		return anthropic.BetaSessionNewParamsResourceUnion{OfGitHubRepository: &anthropic.BetaManagedAgentsGitHubRepositoryResourceParams{
			Type: anthropic.BetaManagedAgentsGitHubRepositoryResourceParamsTypeGitHubRepository, URL: server.URL + "/" + name, AuthorizationToken: gitToken,
		}}
	}
	c := s.startWith(t, "$ cat old/version; ls", at("old"), at("away"))
	texts, _ := c.results(c.end(1))
	if !strings.Contains(texts[0], "[/workspace/away is missing: git clone of "+server.URL) || !strings.HasSuffix(strings.TrimSpace(texts[0]), "two\nold") {
		t.Errorf("it says %q", texts[0])
	}
}
