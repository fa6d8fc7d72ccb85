package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hearth/internal/brain/auth/oidctest"
	"hearth/internal/db/dbtest"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/test/fakemodel"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hearth": main})
}

// TestScripts runs the command line as a person does: each script is a session
// at a shell, with the real program in the foreground and the background.
func TestScripts(t *testing.T) { runScripts(t, "testdata", nil) }

// TestPostgresScripts are those that need a database in $DATABASE_URL.
func TestPostgresScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, filepath.Join("testdata", "postgres"), []string{"DATABASE_URL=" + dbtest.PostgresURL(t)})
}

func runScripts(t *testing.T, dir string, env []string) {
	engine := engineNamespace
	if err := namespace.New(namespace.Config{StateDir: t.TempDir()}).Check(t.Context()); err != nil {
		t.Logf("with the process engine only: %v", err)
		engine = engineProcess
	}
	issuer := oidctest.New(t)
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			// A server on its default directory is in $DATA, and found there.
			e.Vars = append(e.Vars, "XDG_DATA_HOME="+e.WorkDir, "DATA="+filepath.Join(e.WorkDir, "hearth"), "HEARTH_ENGINE="+engine, "ISSUER="+issuer.URL)
			e.Vars = append(e.Vars, env...)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "isolated":
				return engine == engineNamespace, nil
			case "root":
				return os.Getuid() == 0, nil
			case "pid-namespaces":
				return exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "eventually": eventually, "wait-file": waitFile, "wait-grep": waitGrep, "json-env": jsonEnv,
			"json-lines": jsonLines, "mode": mode, "request": request, "failing-model": failingModel,
			"capture": capture, "answers": answers, "webhook": sendWebhook,
		},
	})
}

// patience is how long a script waits for what must happen at some point.
const patience = 30 * time.Second

func await(ts *testscript.TestScript, what string, happened func() bool) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if happened() {
			return
		}
	}
	ts.Fatalf("never happened: %s", what)
}

func usage(ts *testscript.TestScript, ok bool, synopsis string) {
	if !ok {
		ts.Fatalf("usage: %s", synopsis)
	}
}

// exits runs a program that must end with one exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "exits code program [args...]")
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// eventually runs a program again and again until its standard output matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "eventually pattern program [args...]")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	await(ts, fmt.Sprintf("%q in the output of %q", args[0], args[1:]), func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

// waitFile waits until a file is there, or with ! until it is gone.
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 1, "[!] wait-file file")
	path := ts.MkAbs(args[0])
	await(ts, path, func() bool {
		_, err := os.Stat(path)
		return (err == nil) != neg
	})
}

// waitGrep waits until a file that another program writes matches.
func waitGrep(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "wait-grep pattern file")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	path := ts.MkAbs(args[1])
	await(ts, fmt.Sprintf("%q in %s", args[0], path), func() bool {
		raw, err := os.ReadFile(path)
		return err == nil && pattern.Match(raw)
	})
}

// jsonEnv sets a variable to what is at a dotted path of a JSON document.
func jsonEnv(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "json-env variable file path.to.it")
	var at any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &at))
	for step := range strings.SplitSeq(args[2], ".") {
		switch v := at.(type) {
		case map[string]any:
			at = v[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(v) {
				ts.Fatalf("%s: no element %s of %d", args[2], step, len(v))
			}
			at = v[i]
		default:
			at = nil
		}
	}
	if at == nil {
		ts.Fatalf("%s has nothing at %s", args[1], args[2])
	}
	ts.Setenv(args[0], fmt.Sprint(at))
}

// jsonLines makes sure that each line of a file is an object with an id and a type.
func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "json-lines file")
	lines := strings.Split(strings.TrimRight(ts.ReadFile(args[0]), "\n"), "\n")
	for i, line := range lines {
		var event struct{ ID, Type string }
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.ID == "" || event.Type == "" {
			ts.Fatalf("line %d is no event (%v): %s", i+1, err, line)
		}
	}
}

// mode makes sure that a file has these permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "mode octal file")
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if have := fmt.Sprintf("%#o", info.Mode().Perm()); have != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], have, args[0])
	}
}

// request makes a successful HTTP request and keeps the body of the answer.
func request(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 4 && len(args) <= 5, "request method url credential file [body]")
	body := strings.Join(args[4:], "")
	r, err := http.NewRequest(args[0], args[1], strings.NewReader(body))
	ts.Check(err)
	r.Header.Set("Authorization", "Bearer "+args[2])
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	ts.Check(err)
	if response.StatusCode >= 300 {
		ts.Fatalf("%s %s: %s: %s", args[0], args[1], response.Status, bytes.TrimSpace(raw))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), raw, 0o600))
}

// failingModel starts a model that refuses every request, sets the variable to
// its address and $MODEL_KEY to its key.
func failingModel(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "failing-model variable")
	model := fakemodel.New()
	ts.Defer(model.Close)
	model.Respond(func(*fakemodel.Request) fakemodel.Turn {
		return fakemodel.Fail(http.StatusBadRequest, "this model is only for failing")
	})
	ts.Setenv(args[0], model.URL())
	ts.Setenv("MODEL_KEY", fakemodel.Key)
}
