package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"hearth/test/run"
)

// TestProtectedWorker: a worker that the kernel is to spare when the host has no
// memory left does not have it spare what runs in its sandboxes.
func TestProtectedWorker(t *testing.T) {
	if out, err := exec.Command("sh", "-c", "echo -900 >/proc/self/oom_score_adj").CombinedOutput(); err != nil {
		t.Skipf("no process can be protected here: %s", out)
	}
	t.Parallel()
	server := run.Serve(t)
	for _, engine := range []string{"gvisor", "namespace", "process"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, server, "protected "+engine)
			cmd := run.Hearth(t, "worker", "--base-url", s.URL, "--environment-id", s.environmentID, "--engine", engine, "--state", t.TempDir(), "--pool", "1")
			cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
			cmd.Args = append([]string{"sh", "-c", `echo -900 >/proc/self/oom_score_adj && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
			cmd.Path = "/bin/sh"
			worker := run.Begin(t, cmd)
			s.start(t, "$ (sleep 1000 &)").end(1)
			if got := adjustment(worker.Process.Pid); got != "-900" {
				t.Errorf("the worker has %s", got)
			}
			below := run.Descendants(worker.Process.Pid)
			if len(below) == 0 {
				t.Error("it has no processes")
			}
			for _, pid := range below {
				if got := adjustment(pid); got != "0" && got != "" {
					name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
					t.Errorf("%s has %s", strings.TrimSpace(string(name)), got)
				}
			}
		})
	}
}

// adjustment is "" for a process that has ended.
func adjustment(pid int) string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	return strings.TrimSpace(string(raw))
}
