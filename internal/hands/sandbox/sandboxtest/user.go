package sandboxtest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nobody is the user and group an ordinary user's tests run as.
const nobody = 65534

// AsOrdinaryUser runs the tests of this binary that match the pattern again,
// in a process that is not root and has env added to its environment. It skips
// where this one is not root either.
func AsOrdinaryUser(t *testing.T, pattern string, env ...string) {
	if os.Getuid() != 0 {
		t.Skip("the tests run as an ordinary user already")
	}
	dir, err := os.MkdirTemp("", "ordinary-user") // not t.TempDir, which only root may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "test")
	if err := copyProgram("/proc/self/exe", binary); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.v", "-test.run="+pattern)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := output(cmd)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "--- SKIP") {
			t.Logf("skipped there: %s", line)
		}
	}
}

// output runs a program that was just written. Another test may be starting a
// process at that moment, which has the file open until it runs its own program.
func output(cmd *exec.Cmd) ([]byte, error) {
	for {
		again := *cmd
		out, err := again.CombinedOutput()
		if !errors.Is(err, syscall.ETXTBSY) {
			return out, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// copyProgram copies an executable.
func copyProgram(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
