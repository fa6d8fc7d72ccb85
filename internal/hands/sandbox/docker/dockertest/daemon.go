// Package dockertest runs a Docker daemon of their own for tests, with images
// made of the host's files.
package dockertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hearth/test/run"
)

// roleKeeper is the first argument of the process that keeps a daemon for tests.
const roleKeeper = "docker-test-keeper"

// MaybeKeep keeps a daemon, and does not return, where this process was started
// for that. Tests that call Start call it first of all.
func MaybeKeep() {
	if len(os.Args) == 3 && os.Args[1] == roleKeeper {
		keep(os.Args[2])
		os.Exit(0)
	}
}

// patience is how long a daemon may take to start.
const patience = 30 * time.Second

// keep runs a daemon, all of whose files are in dir, as long as standard input is
// open. That ends with the tests, however they end; and then nothing may be left.
// It says "ready" when the daemon is, or else why it is not.
func keep(dir string) {
	k := keeper{dir: dir, groups: fmt.Sprintf("hearth-docker-test-%d", os.Getpid())}
	if err := k.start(); err != nil {
		fmt.Println(err)
	} else {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	k.clear()
}

type keeper struct {
	dir    string
	groups string // the control group that holds the containers'
	daemon *exec.Cmd
}

func socketIn(dir string) string { return filepath.Join(dir, "docker.sock") }

func (k *keeper) start() error {
	program, err := exec.LookPath("dockerd")
	if err != nil {
		return errors.New("dockerd is not installed (Debian: apt-get install docker.io)")
	}
	// What loses its parent, as the containers' keepers do, comes to us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(k.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	at := func(name string) string { return filepath.Join(k.dir, name) }
	k.daemon = exec.Command(program, "--iptables=false", "--ip6tables=false", "--bridge=none", "--cgroup-parent=/"+k.groups,
		"--data-root="+at("data"), "--exec-root="+at("exec"), "--pidfile="+at("pid"), "--host=unix://"+socketIn(k.dir))
	k.daemon.Stdout, k.daemon.Stderr = log, log
	if err := k.daemon.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = k.daemon.Wait(); close(ended) }()
	for deadline := time.Now().Add(patience); !answers(socketIn(k.dir)); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("dockerd does not start here: %s", said[max(0, len(said)-600):])
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("dockerd did not answer within %v", patience)
		}
	}
	return nil
}

func answers(socket string) bool {
	response, err := clientAt(socket).Get("http://docker/_ping")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func clientAt(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// clear ends all that descends from us, and removes all it has made.
func (k *keeper) clear() {
	for below := run.Descendants(os.Getpid()); len(below) > 0; below = run.Descendants(os.Getpid()) {
		for _, pid := range below {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil) // -1 when there is none
		}
		time.Sleep(time.Millisecond)
	}
	for _, mount := range mountsBelow(k.dir) {
		_ = unix.Unmount(mount, unix.MNT_DETACH) // in a namespace that ends with us
	}
	if err := os.RemoveAll(k.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	// Who has ended may stay in its group a moment longer.
	for deadline := time.Now().Add(patience); k.removeGroups() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// removeGroups removes the containers' control groups and tells how many are left.
func (k *keeper) removeGroups() (left int) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + k.groups, "/sys/fs/cgroup/*/" + k.groups} {
		groups, _ := filepath.Glob(pattern)
		for _, group := range groups {
			inner, _ := filepath.Glob(group + "/*/")
			for _, dir := range append(inner, group) {
				if unix.Rmdir(dir) != nil {
					left++
				}
			}
		}
	}
	return left
}

// mountsBelow lists what is mounted below a directory, the latest first.
func mountsBelow(dir string) (mounts []string) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.HasPrefix(fields[1], dir) {
			mounts = append(mounts, fields[1])
		}
	}
	slices.Reverse(mounts)
	return mounts
}

// Start starts a daemon, and tells where its socket is, or why there can be none.
// The daemon ends with stop, and with this process.
func Start() (socket string, stop func(), err error) {
	if os.Getuid() != 0 {
		return "", nil, errors.New("only root can start a Docker daemon")
	}
	dir, err := os.MkdirTemp("", "hearth-docker-") // short, for the daemon's sockets
	if err != nil {
		return "", nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("/proc/self/exe", roleKeeper, dir)
	cmd.Args[0] = os.Args[0] // gVisor takes what is called by its own link for one of its parts
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setsid: true}
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		stdin.Close()
		_ = cmd.Wait() // it says itself what goes wrong
	}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || said != "ready\n" {
		stop()
		return "", nil, errors.New(strings.TrimSpace(said))
	}
	return socketIn(dir), stop, os.Chmod(socketIn(dir), 0o666) // for the tests of ordinary users
}
