package hosted_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hearth/internal/hands/worker"
	"hearth/test/conformance/hosted"
)

// maxIdle is the idle time every worker under test is configured with.
const maxIdle = 400 * time.Millisecond

// patience bounds the waits for what a worker does on the host.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	runVictim()
	flag.Parse()
	// The scenarios wait for leases and idle times far more than they compute.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// subject is a worker under test, polling a fake.
type subject struct {
	// workdir is the host's view of a session's working directory.
	workdir func(session string) string
	// ended yields what the worker's run returned.
	ended <-chan error
	// drain asks it to end.
	drain context.CancelFunc
	// status is what our own worker says it does; nil for others.
	status func() worker.Status
}

// launch starts a worker that is stopped when the test ends.
type launch func(t *testing.T, service *hosted.Service) *subject

// scenarios are what every worker must be able to do. Each runs against a
// fresh fake that fails the test for every broken obligation.
func scenarios() map[string]func(*testing.T, launch) {
	return map[string]func(*testing.T, launch){
		"six tools":                 sixTools,
		"history only":              historyOnly,
		"parallel calls":            parallelCalls,
		"shell calls in order":      shellCallsInOrder,
		"held calls":                heldCalls,
		"confirmed in the history":  confirmedInHistory,
		"held beyond the idle time": heldBeyondIdle,
		"calls of others":           callsOfOthers,
		"interrupt":                 interrupt,
		"interrupt in the history":  interruptInHistory,
		"lease lost":                leaseLost,
		"told to stop":              func(t *testing.T, l launch) { toldToStop(t, l, (*hosted.Item).RequestStop) },
		"not extended":              func(t *testing.T, l launch) { toldToStop(t, l, (*hosted.Item).DenyExtension) },
		"heartbeats fail for a while": func(t *testing.T, l launch) {
			heartbeatsFail(t, l, hosted.Fault{Status: 500}, hosted.Fault{Done: true})
		},
		"heartbeat refused": func(t *testing.T, l launch) { heartbeatRefused(t, l) },
		"stream cut":        streamCut,
		"listing fails":     listingFails,
		"answers lost": func(t *testing.T, l launch) {
			sendFails(t, l, hosted.Fault{Status: 500}, hosted.Fault{Status: 500, Done: true}, hosted.Fault{Done: true})
		},
		"result refused":        resultRefused,
		"stop fails":            stopFails,
		"healthcheck":           healthcheck,
		"session unreadable":    sessionUnreadable,
		"acknowledgement lost":  ackLost,
		"acknowledgement fails": ackFails,
		"no sessions token":     noSessionsToken,
		"terminated":            func(t *testing.T, l launch) { sessionEnds(t, l, "session.status_terminated") },
		"deleted":               func(t *testing.T, l launch) { sessionEnds(t, l, "session.deleted") },
		"activated again":       activatedAgain,
		"skills":                skills,
		"skills that fail":      skillsThatFail,
		"memories":              memories,
		"memories, lease lost":  memoriesOfALostLease,
		"poll fails":            pollFails,
		"poll refused":          pollRefused,
		"no output":             noOutput,
		"turn ended already":    turnEndedAlready,
	}
}

func exercise(t *testing.T, start launch) {
	for name, scenario := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, start)
		})
	}
}

// begin starts a fake with a session.
func begin(t *testing.T) (*hosted.Service, *hosted.Session) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	return service, service.NewSession(hosted.SessionOptions{})
}

// conclude ends the turn and waits until the worker has left.
func conclude(t *testing.T, session *hosted.Session, item *hosted.Item) {
	t.Helper()
	session.EndTurn()
	item.AwaitStopped(t)
}

// want waits for the result of a call and checks it.
func want(t *testing.T, session *hosted.Session, id string, isError bool, parts ...string) hosted.Result {
	t.Helper()
	result := session.AwaitResult(t, id)
	if result.IsError != isError {
		t.Errorf("the result of %s has is_error %t: %q", id, result.IsError, result.Text)
	}
	for _, part := range parts {
		if !strings.Contains(result.Text, part) {
			t.Errorf("the result of %s lacks %q: %q", id, part, result.Text)
		}
	}
	return result
}

// endless is a command that says when it runs and then does so for longer than
// any test waits.
const endless = "touch running; sleep 600"

// awaitFile waits until a session's command has made a file.
func awaitFile(t *testing.T, w *subject, session *hosted.Session, name string) {
	t.Helper()
	file := filepath.Join(w.workdir(session.ID), name)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not appear", file)
		}
	}
}

func allow(name string, input map[string]any) hosted.Tool {
	return hosted.Tool{Name: name, Input: input, Permission: "allow"}
}

func sixTools(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	step := func(tool string, input map[string]any, isError bool, parts ...string) {
		t.Helper()
		want(t, session, session.Call(allow(tool, input))[0], isError, parts...)
	}
	step("bash", map[string]any{"command": "mkdir deep && cd deep && export WORD=hearth && pwd"}, false, "deep")
	step("bash", map[string]any{"command": "echo $WORD in $(basename $PWD); env | grep -c ANTHROPIC; true"}, false, "hearth in deep", "0")
	step("write", map[string]any{"file_path": "deep/poem.txt", "content": "one\ntwo\nthree\n"}, false)
	step("read", map[string]any{"file_path": "deep/poem.txt"}, false, "one\ntwo\nthree")
	step("edit", map[string]any{"file_path": "deep/poem.txt", "old_string": "two", "new_string": "zwei"}, false)
	step("glob", map[string]any{"pattern": "**/*.txt"}, false, "poem.txt")
	step("grep", map[string]any{"pattern": "zw.i"}, false, "poem.txt", "zwei")
	step("read", map[string]any{"file_path": "absent.txt"}, true)
	step("bash", map[string]any{"command": "exit_code() { return 3; }; exit_code"}, true)
	conclude(t, session, item)
}

func noOutput(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	if result := want(t, session, session.Bash("true"), false); strings.TrimSpace(result.Text) == "" {
		t.Errorf("a command without output was answered with %q", result.Text)
	}
	conclude(t, session, item)
}

func historyOnly(t *testing.T, start launch) {
	service, session := begin(t)
	answered := session.Bash("touch answered-twice")
	session.Answer(answered, "done before")
	id := session.Bash("ls")
	item := service.Offer(session)
	start(t, service)
	if result := want(t, session, id, false); strings.Contains(result.Text, "answered-twice") {
		t.Error("a call that had its answer was run again")
	}
	conclude(t, session, item)
}

func turnEndedAlready(t *testing.T, start launch) {
	service, session := begin(t)
	session.EndTurn()
	item := service.Offer(session)
	start(t, service)
	item.AwaitStopped(t)
}

func parallelCalls(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	ids := session.Call(
		allow("bash", map[string]any{"command": "echo first"}),
		allow("write", map[string]any{"file_path": "a.txt", "content": "a"}),
		allow("bash", map[string]any{"command": "echo second"}),
		hosted.Tool{Name: "glob", Input: map[string]any{"pattern": "*.none"}}, // no evaluated_permission: run it
	)
	for i, part := range []string{"first", "", "second", ""} {
		want(t, session, ids[i], false, part)
	}
	conclude(t, session, item)
}

// shellCallsInOrder has the agent build on its own earlier calls in one turn.
func shellCallsInOrder(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	var tools []hosted.Tool
	for i := range 12 {
		tools = append(tools, allow("bash", map[string]any{"command": fmt.Sprintf("LINE=$LINE,%d", i)}))
	}
	for _, id := range session.Call(tools...) {
		want(t, session, id, false)
	}
	want(t, session, session.Bash("echo $LINE"), false, ",0,1,2,3,4,5,6,7,8,9,10,11")
	conclude(t, session, item)
}

func heldCalls(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	held := func(command, permission string) hosted.Tool {
		return hosted.Tool{Name: "bash", Input: map[string]any{"command": command}, Permission: permission}
	}
	ids := session.Call(
		held("touch asked-and-denied", "ask"), held("echo asked and allowed", "ask"),
		held("touch denied", "deny"), held("echo of next year", "perhaps"),
	)
	session.Confirm(ids[0], "deny")
	session.Confirm(ids[3], "allow")
	want(t, session, ids[3], false, "of next year")
	session.Confirm(ids[1], "allow")
	want(t, session, ids[1], false, "asked and allowed")
	want(t, session, session.Bash("ls | grep denied | wc -l"), false, "0")
	conclude(t, session, item)
}

func confirmedInHistory(t *testing.T, start launch) {
	service, session := begin(t)
	ids := session.Call(
		hosted.Tool{Name: "bash", Input: map[string]any{"command": "echo yes"}, Permission: "ask"},
		hosted.Tool{Name: "bash", Input: map[string]any{"command": "echo no"}, Permission: "ask"},
	)
	session.Confirm(ids[1], "deny")
	session.Confirm(ids[0], "allow")
	item := service.Offer(session)
	start(t, service)
	want(t, session, ids[0], false, "yes")
	conclude(t, session, item)
}

func heldBeyondIdle(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	id := session.Call(hosted.Tool{Name: "bash", Input: map[string]any{"command": "echo at last"}, Permission: "ask"})[0]
	item.AwaitBeats(t, 3) // several idle times later
	session.Confirm(id, "allow")
	want(t, session, id, false, "at last")
	conclude(t, session, item)
}

func callsOfOthers(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	session.Call(
		hosted.Tool{Name: "deploy", Input: map[string]any{}, Custom: true},
	)
	search := session.Call(hosted.Tool{Name: "web_search", Input: map[string]any{"query": "q"}, Permission: "allow"})[0]
	session.Add(map[string]any{"type": "agent.tool_result", "tool_use_id": search, "content": []any{}})
	session.Add(map[string]any{"type": "agent.mcp_tool_use", "name": "bash", "mcp_server_name": "m", "input": map[string]any{}, "evaluated_permission": "allow"})
	want(t, session, session.Bash("echo mine"), false, "mine")
	conclude(t, session, item)
}

func interrupt(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	w := start(t, service)
	session.Bash(endless)
	queued := session.QueueInterrupt() // has no effect until it is processed
	awaitFile(t, w, session, "running")
	session.Interrupt(queued)
	session.EndTurn()
	want(t, session, session.Bash("echo still here"), false, "still here")
	conclude(t, session, item)
}

func interruptInHistory(t *testing.T, start launch) {
	service, session := begin(t)
	queued := session.QueueInterrupt() // so it is listed before the call it voids
	session.Bash(endless)
	session.Interrupt(queued)
	session.EndTurn()
	id := session.Bash("ls")
	item := service.Offer(session)
	start(t, service)
	if result := want(t, session, id, false); strings.Contains(result.Text, "running") {
		t.Error("a call that was interrupted before ran all the same")
	}
	conclude(t, session, item)
}

func leaseLost(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	w := start(t, service)
	session.Bash(endless)
	awaitFile(t, w, session, "running")
	item.Lose()
	item.AwaitLost(t)
	serveAnother(t, service)
}

// serveAnother shows that the worker goes on with the next item.
func serveAnother(t *testing.T, service *hosted.Service) {
	t.Helper()
	session := service.NewSession(hosted.SessionOptions{})
	item := service.Offer(session)
	want(t, session, session.Bash("echo the next"), false, "the next")
	conclude(t, session, item)
}

func toldToStop(t *testing.T, start launch, tell func(*hosted.Item)) {
	service, session := begin(t)
	item := service.Offer(session)
	w := start(t, service)
	session.Bash(endless)
	awaitFile(t, w, session, "running")
	tell(item)
	item.AwaitStopped(t)
}

func heartbeatsFail(t *testing.T, start launch, faults ...hosted.Fault) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	item.AwaitBeats(t, 1)
	service.Fail(hosted.Beat, faults...)
	item.AwaitBeats(t, 3)
	want(t, session, session.Bash("echo alive"), false, "alive")
	conclude(t, session, item)
}

func heartbeatRefused(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	w := start(t, service)
	session.Bash(endless)
	awaitFile(t, w, session, "running")
	item.AwaitBeats(t, 1)
	service.Fail(hosted.Beat, hosted.Fault{Status: 403})
	item.AwaitStopped(t)
}

func streamCut(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo before >> log; cat log"), false, "before")
	session.CutStreams()
	id := session.Bash("echo between >> log; cat log")
	want(t, session, id, false, "before\nbetween")
	service.Fail(hosted.Stream, hosted.Fault{Status: 500})
	session.CutStreams()
	want(t, session, session.Bash("echo after >> log; grep -c . log"), false, "3")
	conclude(t, session, item)
}

func listingFails(t *testing.T, start launch) {
	service, session := begin(t)
	failed := hosted.Fault{Status: 500}
	service.Fail(hosted.List, failed, failed, failed)
	item := service.Offer(session)
	start(t, service)
	service.AwaitAnswered(t, hosted.Stream, 1)
	want(t, session, session.Bash("echo live"), false, "live")
	conclude(t, session, item)
}

func sendFails(t *testing.T, start launch, faults ...hosted.Fault) {
	service, session := begin(t)
	service.Fail(hosted.Send, faults...)
	item := service.Offer(session)
	start(t, service)
	session.AwaitResult(t, session.Bash("echo once >> log"))
	want(t, session, session.Bash("grep -c once log"), false, "1")
	conclude(t, session, item)
}

func resultRefused(t *testing.T, start launch) {
	service, session := begin(t)
	service.Fail(hosted.Send, hosted.Fault{Status: 400})
	item := service.Offer(session)
	start(t, service)
	session.Bash("echo dropped")
	service.AwaitFaults(t, hosted.Send)
	want(t, session, session.Bash("echo the other"), false, "the other")
	session.EndTurn()
	item.AwaitStopped(t)
}

func stopFails(t *testing.T, start launch) {
	service, session := begin(t)
	service.Fail(hosted.Stop, hosted.Fault{Status: 500})
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo hello"), false, "hello")
	conclude(t, session, item)
}

func healthcheck(t *testing.T, start launch) {
	service, session := begin(t)
	check, item := service.OfferHealthcheck(), service.Offer(session)
	start(t, service)
	check.AwaitStopped(t)
	want(t, session, session.Bash("echo healthy"), false, "healthy")
	conclude(t, session, item)
}

func sessionUnreadable(t *testing.T, start launch) {
	service, session := begin(t)
	service.Fail(hosted.GetSession, hosted.Fault{Status: 404})
	item := service.Offer(session)
	start(t, service)
	item.AwaitStopped(t)
	serveAnother(t, service)
}

func ackLost(t *testing.T, start launch) {
	service, session := begin(t)
	service.Fail(hosted.Ack, hosted.Fault{Status: 503, Done: true})
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo mine"), false, "mine")
	conclude(t, session, item)
}

func ackFails(t *testing.T, start launch) {
	service, session := begin(t)
	service.Fail(hosted.Ack, hosted.Fault{Status: 404})
	service.Offer(session)
	start(t, service)
	serveAnother(t, service)
}

func noSessionsToken(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.OfferUnsealed(session)
	start(t, service)
	want(t, session, session.Bash("echo by key"), false, "by key")
	conclude(t, session, item)
}

func sessionEnds(t *testing.T, start launch, event string) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo last words"), false, "last words")
	session.End(event)
	item.AwaitStopped(t)
}

func activatedAgain(t *testing.T, start launch) {
	service, session := begin(t)
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo kept > file"), false)
	conclude(t, session, item)
	id := session.Bash("cat file")
	item = service.Offer(session)
	want(t, session, id, false, "kept")
	conclude(t, session, item)
}

func skills(t *testing.T, start launch) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	files := []hosted.File{
		{Name: "SKILL.md", Body: "how to"}, {Name: "parts/a.txt", Body: "part a"},
		{Name: "link", Link: "/etc/passwd"},
	}
	session := service.NewSession(hosted.SessionOptions{Skills: []*hosted.Skill{
		{ID: "skill_zip", Name: "zipped", Version: "latest", Content: hosted.ZipOf("wrapper", files...)},
		{ID: "skill_tar", Name: "../../tarred ", Version: "7", Content: hosted.TarOf("wrapper", files...)},
	}})
	item := service.Offer(session)
	start(t, service)
	id := session.Bash("cat skills/zipped/SKILL.md skills/zipped/parts/a.txt skills/tarred/SKILL.md; ls skills skills/zipped skills/tarred")
	if result := want(t, session, id, false, "how topart ahow to"); strings.Contains(result.Text, "link") {
		t.Errorf("a link was unpacked: %q", result.Text)
	}
	conclude(t, session, item)
}

// memories of a store whose directory the service leaves to the worker.
func memories(t *testing.T, start launch) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	session := service.NewSession(hosted.SessionOptions{Memories: map[string]string{"/a.md": "1\n", "/dir/b.md": "é", "/gone.md": "x", "/stays": ""}})
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("cat memory/notes/a.md memory/notes/dir/b.md; echo 2 >>memory/notes/a.md; mkdir memory/notes/new; echo new >memory/notes/new/c.md; rm memory/notes/gone.md"), false, "1\né")
	conclude(t, session, item)
	session.AwaitMemories(t, map[string]string{"/a.md": "1\n2\n", "/dir/b.md": "é", "/new/c.md": "new\n", "/stays": ""})
}

// memoriesOfALostLease are saved all the same.
func memoriesOfALostLease(t *testing.T, start launch) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	session := service.NewSession(hosted.SessionOptions{Memories: map[string]string{"/a.md": "1", "/b.md": "2"}})
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo changed >memory/notes/a.md; rm memory/notes/b.md"), false)
	item.Lose()
	session.AwaitMemories(t, map[string]string{"/a.md": "changed\n", "/b.md": "2"})
}

func skillsThatFail(t *testing.T, start launch) {
	service := hosted.Start(t, hosted.Options{MaxIdle: maxIdle})
	session := service.NewSession(hosted.SessionOptions{Skills: []*hosted.Skill{
		{ID: "skill_broken", Name: "broken", Version: "1", Content: []byte("PK\x03\x04 and no more")},
		{ID: "skill_sly", Name: "sly", Version: "1", Content: hosted.ZipOf("..", hosted.File{Name: "../../sly.txt", Body: "out"})},
		{ID: "skill_good", Name: "good", Version: "1", Content: hosted.ZipOf("good", hosted.File{Name: "SKILL.md", Body: "fine"})},
	}})
	item := service.Offer(session)
	w := start(t, service)
	want(t, session, session.Bash("cat skills/good/SKILL.md"), false, "fine")
	for dir := w.workdir(session.ID); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "sly.txt")); err == nil {
			t.Errorf("the archive wrote into %s", dir)
		}
	}
	conclude(t, session, item)
}

func pollFails(t *testing.T, start launch) {
	service, session := begin(t)
	service.Fail(hosted.Poll, hosted.Fault{Status: 503}, hosted.Fault{Done: true})
	item := service.Offer(session)
	start(t, service)
	want(t, session, session.Bash("echo after all"), false, "after all")
	conclude(t, session, item)
}

func pollRefused(t *testing.T, start launch) {
	service, _ := begin(t)
	service.Fail(hosted.Poll, hosted.Fault{Status: 401})
	w := start(t, service)
	select {
	case err := <-w.ended:
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("the worker ended with %v, want an error that says 401", err)
		}
	case <-time.After(patience):
		t.Error("the worker goes on after a 401")
	}
}
