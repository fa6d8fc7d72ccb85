// Package run runs hearth and programs on the official TypeScript SDK as
// processes of their own, for tests that stand outside.
package run

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hearth/api/openapitest"
	"hearth/client"
	"hearth/test/build"
)

// Patience bounds every wait; nothing is expected to take that long.
const Patience = time.Minute

// binary is hearth, built once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hearth-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hearth")
	return path, build.Link(context.Background(), "hearth/cmd/hearth", path)
})

// Main runs a package's tests and tidies up; its result is the exit code.
func Main(m *testing.M) int {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	return code
}

// Hearth is a hearth command that has yet to begin.
func Hearth(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return cmd
}

// Program is a command that has begun.
type Program struct {
	*exec.Cmd
	ended chan struct{} // closed once it has
}

// Begin starts a command that ends with the test, whose log is shown if it fails.
func Begin(t testing.TB, cmd *exec.Cmd) Program {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := Program{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // tests end programs in every way there is
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if !p.Ends() {
			t.Errorf("%v does not end", cmd.Args)
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			raw, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", strings.Join(cmd.Args[1:], " "), tail(raw))
		}
	})
	return p
}

// Ends waits for the program's end, and tells whether it came.
func (p Program) Ends() bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(Patience):
		return false
	}
}

// Log is what the program has said so far.
func (p Program) Log(t testing.TB) string {
	t.Helper()
	raw, err := os.ReadFile(p.Stdout.(*os.File).Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func tail(raw []byte) []byte { return raw[max(0, len(raw)-6000):] }

// Brain is a running hearth serve behind a proxy that checks its answers.
type Brain struct {
	URL    string // of the proxy
	Direct string // of the server itself
	Key    string // its operator's API key
	Client *client.Client
}

// Serve starts hearth serve with the arguments given.
func Serve(t testing.TB, args ...string) *Brain { return ServeBehind(t, nil, args...) }

// ServeBehind has the proxy's requests go through front. Arguments of the form
// NAME=value go to the server's environment.
func ServeBehind(t testing.TB, front func(http.Handler) http.Handler, args ...string) *Brain {
	t.Helper()
	data := t.TempDir()
	isVariable := func(arg string) bool {
		name, _, ok := strings.Cut(arg, "=")
		return ok && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
	}
	flags := slices.DeleteFunc(slices.Clone(args), isVariable)
	cmd := Hearth(t, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", data, "--lease-ttl", "4s", "--ping-interval", "1s"}, flags...)...)
	for _, arg := range args {
		if isVariable(arg) {
			cmd.Env = append(cmd.Env, arg)
		}
	}
	Begin(t, cmd)
	var info struct {
		BaseURL string `json:"base_url"`
		APIKey  string `json:"api_key"`
	}
	Eventually(t, "the server is ready", func() bool {
		raw, err := os.ReadFile(filepath.Join(data, "serve.json"))
		return err == nil && json.Unmarshal(raw, &info) == nil
	})
	handler := openapitest.Proxy(t, info.BaseURL)
	if front != nil {
		handler = front(handler)
	}
	proxy := httptest.NewServer(handler)
	t.Cleanup(func() { proxy.CloseClientConnections(); proxy.Close() })
	return &Brain{URL: proxy.URL, Direct: info.BaseURL, Key: info.APIKey, Client: client.New(proxy.URL, info.APIKey)}
}

// Eventually waits until what is named has happened.
func Eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if happened() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}
