package hosted_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/internal/hands/sandbox/process"
	"hearth/internal/hands/worker"
	"hearth/test/conformance/hosted"
)

// engine makes an engine over a state directory.
type engine func(stateDir string) sandbox.Engine

var silent = slog.New(slog.DiscardHandler)

func processEngine(dir string) sandbox.Engine { return process.New(dir, nil, silent) }

func namespaceEngine(dir string) sandbox.Engine {
	return namespace.New(namespace.Config{StateDir: dir, Log: silent})
}

func TestWorkerOnProcess(t *testing.T) {
	t.Parallel()
	exerciseOurs(t, processEngine)
}

func TestWorkerOnNamespace(t *testing.T) {
	t.Parallel()
	if err := namespaceEngine(t.TempDir()).Check(t.Context()); err != nil {
		t.Skip(err)
	}
	exerciseOurs(t, namespaceEngine)
}

// exerciseOurs runs what every worker must do and what only ours does.
func exerciseOurs(t *testing.T, e engine) {
	exercise(t, func(t *testing.T, service *hosted.Service) *subject { return e.launch(t, service, nil) })
	for name, scenario := range map[string]func(*testing.T, engine){
		"sessions at once":     sessionsAtOnce,
		"no more than it may":  noMoreThanItMay,
		"drain":                drain,
		"memories, no token":   memoriesWithoutToken,
		"one claimed item":     oneClaimedItem,
		"answered by a server": answeredByServer,
		"killed":               killed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, e)
		})
	}
}

func TestSandboxLost(t *testing.T) {
	t.Parallel()
	service, session := begin(t)
	item := service.Offer(session)
	engine(processEngine).launch(t, service, nil)
	want(t, session, session.Bash("echo kept > file; export WORD=gone"), false)
	want(t, session, session.Bash("kill -9 $PPID; sleep 600"), true, "lost") // the hand, which the process engine does not protect
	want(t, session, session.Bash("cat file; echo word: $WORD."), false, "kept", "word: .")
	conclude(t, session, item)
}

// config is a worker's configuration for a fake.
func (e engine) config(service *hosted.Service, stateDir string) worker.Config {
	return worker.Config{
		BaseURL: service.URL(), EnvironmentID: hosted.EnvironmentID, EnvironmentKey: hosted.EnvironmentKey,
		Engine: e(stateDir), StateDir: stateDir, MaxIdle: maxIdle, Drain: time.Second,
	}
}

// launch starts our worker. When it has ended, nothing it made may be left and
// no credential may be in its log.
func (e engine) launch(t *testing.T, service *hosted.Service, adjust func(*worker.Config)) *subject {
	t.Helper()
	config := e.config(service, t.TempDir())
	log := &journal{}
	config.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if adjust != nil {
		adjust(&config)
	}
	w := newWorker(t, config)
	t.Cleanup(func() {
		log.check(t)
		left, err := config.Engine.List(context.Background())
		if err != nil || len(left) > 0 {
			t.Errorf("the worker left %v, %v", left, err)
		}
	})
	started := runWorker(t, w.Run, workdirIn(config.StateDir))
	started.status = w.Status
	return started
}

func newWorker(t *testing.T, config worker.Config) *worker.Worker {
	t.Helper()
	w, err := worker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// workdirIn is where a worker keeps the working directory of a session.
func workdirIn(stateDir string) func(string) string {
	return func(session string) string { return filepath.Join(stateDir, "sessions", session, "work") }
}

// journal is a worker's log.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

// check looks for credentials, and shows the log of a test that failed.
func (j *journal) check(t *testing.T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, secret := range []string{hosted.EnvironmentKey, hosted.TokenPrefix} {
		if strings.Contains(j.text.String(), secret) {
			t.Errorf("the log holds a credential:\n%s", &j.text)
		}
	}
	if t.Failed() {
		t.Logf("the worker's log:\n%s", &j.text)
	}
}

// rendezvous is a command that says it runs and waits to be let go.
const rendezvous = "touch running; while [ ! -e go ]; do sleep 0.02; done; echo gone on"

func letGo(t *testing.T, w *subject, session *hosted.Session) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.workdir(session.ID), "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func sessionsAtOnce(t *testing.T, e engine) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	var sessions []*hosted.Session
	var items []*hosted.Item
	var calls, ids []string
	for range 4 {
		session := service.NewSession(hosted.SessionOptions{})
		sessions, ids = append(sessions, session), append(ids, session.ID)
		items, calls = append(items, service.Offer(session)), append(calls, session.Bash(rendezvous))
	}
	w := e.launch(t, service, nil)
	for _, session := range sessions {
		awaitFile(t, w, session, "running")
	}
	if status := w.status(); !slices.Equal(status.Sessions, ids) || status.LastPoll.IsZero() {
		t.Errorf("the status is %+v, want the sessions %v", status, ids)
	}
	for i, session := range sessions {
		letGo(t, w, session)
		want(t, session, calls[i], false, "gone on")
		conclude(t, session, items[i])
	}
}

func noMoreThanItMay(t *testing.T, e engine) {
	service, first := begin(t)
	second := service.NewSession(hosted.SessionOptions{})
	items := []*hosted.Item{service.Offer(first), service.Offer(second)}
	w := e.launch(t, service, func(c *worker.Config) { c.MaxSessions = 1 })
	call := first.Bash(rendezvous)
	awaitFile(t, w, first, "running")
	items[0].AwaitBeats(t, 2)
	if items[1].Claimed() {
		t.Error("a worker for one session claimed two")
	}
	letGo(t, w, first)
	want(t, first, call, false)
	conclude(t, first, items[0])
	want(t, second, second.Bash("echo mine"), false, "mine")
	conclude(t, second, items[1])
}

func drain(t *testing.T, e engine) {
	service, finishing := begin(t)
	hanging, waiting := service.NewSession(hosted.SessionOptions{}), service.NewSession(hosted.SessionOptions{})
	var items []*hosted.Item
	for _, session := range []*hosted.Session{finishing, hanging, waiting} {
		items = append(items, service.Offer(session))
	}
	w := e.launch(t, service, nil)
	call, endlessCall := finishing.Bash(rendezvous), hanging.Bash(endless)
	awaitFile(t, w, finishing, "running")
	awaitFile(t, w, hanging, "running")
	for _, item := range items {
		item.AwaitBeats(t, 1)
		item.AllowStop("the worker drains")
	}
	w.drain()
	items[2].AwaitStopped(t) // it had nothing to do
	letGo(t, w, finishing)
	want(t, finishing, call, false, "gone on")
	items[0].AwaitStopped(t)
	items[1].AwaitStopped(t)
	if err := <-w.ended; err != nil {
		t.Errorf("draining ended with %v", err)
	}
	if hanging.Answered(endlessCall) {
		t.Error("a call that was cut off has an answer")
	}
}

// memoriesWithoutToken: without a sessions token there are no memories, and the
// agent is told.
func memoriesWithoutToken(t *testing.T, e engine) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	session := service.NewSession(hosted.SessionOptions{Memories: map[string]string{"/a": "1"}})
	item := service.OfferUnsealed(session)
	e.launch(t, service, nil)
	want(t, session, session.Bash("ls memory 2>&1 || echo nothing"), false, "notes is missing: the work item carried no sessions token", "nothing")
	conclude(t, session, item)
}

// oneClaimedItem serves an item a dispatcher has claimed, and goes on with the
// lease it began.
func oneClaimedItem(t *testing.T, e engine) {
	for _, beaten := range []bool{false, true} {
		t.Run(fmt.Sprintf("beaten %t", beaten), func(t *testing.T) {
			t.Parallel()
			service, session := begin(t)
			item := service.Offer(session)
			secret, last := item.Claim(beaten)
			environment := map[string]string{
				"ANTHROPIC_WORK_ID": item.ID, "ANTHROPIC_ENVIRONMENT_ID": hosted.EnvironmentID, "ANTHROPIC_SESSION_ID": session.ID,
				"ANTHROPIC_WORK_SECRET": secret, "ANTHROPIC_WORK_LAST_HEARTBEAT": last,
			}
			claimed, err := worker.ItemFromEnvironment(func(name string) string { return environment[name] })
			if err != nil {
				t.Fatal(err)
			}
			config := e.config(service, t.TempDir())
			config.EnvironmentKey, config.Log = "", silent // the secret is enough
			w := newWorker(t, config)
			started := runWorker(t, func(ctx context.Context) error { return w.RunOne(ctx, claimed) }, workdirIn(config.StateDir))
			want(t, session, session.Bash("echo one"), false, "one")
			conclude(t, session, item)
			if err := <-started.ended; err != nil {
				t.Errorf("serving one item ended with %v", err)
			}
		})
	}
}

// answeredByServer is what a cloud session of Hearth lists: the answer of a
// worker as agent.tool_result.
func answeredByServer(t *testing.T, e engine) {
	service, session := begin(t)
	id := session.Bash("touch answered-twice")
	session.AnswerAs("agent.tool_result", id, "done before")
	item := service.Offer(session)
	e.launch(t, service, nil)
	if result := want(t, session, session.Bash("ls"), false); strings.Contains(result.Text, "answered-twice") {
		t.Error("a call that had its answer was run again")
	}
	conclude(t, session, item)
}

// killed kills a worker with a call running, and starts another over the same
// state directory: it clears up, and says of the call that it may have run,
// without running it again.
func killed(t *testing.T, e engine) {
	service, session := begin(t)
	item := service.Offer(session)
	stateDir := t.TempDir()
	nap := fmt.Sprintf("sleep 613.%d", time.Now().UnixNano()) // told apart from any other
	before := session.Bash("echo done; export WORD=old")
	victim := startVictim(t, service, stateDir, e(stateDir).Name())
	want(t, session, before, false, "done")
	id := session.Bash("echo ran >> log; touch running; " + nap)
	awaitFile(t, &subject{workdir: workdirIn(stateDir)}, session, "running")
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // killed
	item.HolderKilled()

	e.launch(t, service, func(c *worker.Config) { c.StateDir, c.Engine = stateDir, e(stateDir) })
	want(t, session, id, true, "may have run")
	want(t, session, session.Bash("grep -c ran log; echo word: $WORD."), false, "1", "word: .")
	if pids := processesOf(t, nap); len(pids) > 0 {
		t.Errorf("the killed worker's call still runs as %v", pids)
	}
	conclude(t, session, item)
}

// victimVariable makes a process of this test a worker to be killed.
const victimVariable = "HEARTH_TEST_VICTIM"

// victimConfig is what the worker to be killed is told.
type victimConfig struct{ BaseURL, StateDir, Engine string }

func startVictim(t *testing.T, service *hosted.Service, stateDir, engineName string) *exec.Cmd {
	t.Helper()
	told, err := json.Marshal(victimConfig{service.URL(), stateDir, engineName})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimVariable+"="+string(told))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // it ends with this process
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have been killed already
	return cmd
}

// runVictim runs the worker to be killed, if this process is to be one.
func runVictim() {
	told := os.Getenv(victimVariable)
	if told == "" {
		return
	}
	var v victimConfig
	if err := json.Unmarshal([]byte(told), &v); err != nil {
		panic(err)
	}
	e := processEngine
	if v.Engine == "namespace" {
		e = namespaceEngine
	}
	w, err := worker.New(worker.Config{
		BaseURL: v.BaseURL, EnvironmentID: hosted.EnvironmentID, EnvironmentKey: hosted.EnvironmentKey,
		Engine: e(v.StateDir), StateDir: v.StateDir, Log: silent,
	})
	if err != nil {
		panic(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
		os.Exit(1)
	}()
	fmt.Fprintln(os.Stderr, "the worker to be killed ended:", w.Run(context.Background()))
	os.Exit(1)
}

// processesOf finds the processes of this host that run a command.
func processesOf(t *testing.T, command string) []string {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, entry := range entries {
		line, err := os.ReadFile(entry)
		if err == nil && strings.TrimRight(strings.ReplaceAll(string(line), "\x00", " "), " ") == command {
			pids = append(pids, filepath.Base(filepath.Dir(entry)))
		}
	}
	return pids
}
