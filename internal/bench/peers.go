package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	files "hearth/internal/hands/sandbox/program"
)

// peers are the other ways to a sandbox that this machine has.
func peers(ctx context.Context, cfg Config) []contestant {
	var all []contestant
	root, err := smallRoot()
	if err != nil {
		cfg.say("  without other ways to a sandbox: %v", err)
		return nil
	}
	for _, p := range []struct {
		name string
		make func(ctx context.Context, root string) (contestant, error)
	}{{"bwrap", bwrap}, {"runc", once(runc)}, {"runsc", once(runsc)}, {"podman", podman}, {"dockerd", docker}} {
		if _, err := exec.LookPath(p.name); err != nil {
			cfg.say("  without %s: it is not installed", p.name)
			continue
		}
		c, err := p.make(ctx, root)
		if err == nil { // one that cannot run here is no peer
			var remove func() error
			if _, remove, err = timed(ctx, c); err == nil {
				err = remove()
			}
			if err != nil {
				c.close()
			}
		}
		if err != nil {
			cfg.say("  without %s: %v", p.name, err)
			continue
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		os.RemoveAll(root)
		return nil
	}
	last := all[len(all)-1].close
	all[len(all)-1].close = func() { last(); os.RemoveAll(root) }
	return all
}

// smallRoot makes a root file system of one static program, in a directory of its own.
func smallRoot() (root string, err error) {
	if root, err = os.MkdirTemp("", "hearth-bench-root-"); err != nil {
		return "", err
	}
	if err := fillRoot(root); err != nil {
		return "", errors.Join(err, os.RemoveAll(root))
	}
	return root, nil
}

func fillRoot(root string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return errors.New("busybox is not installed (apt-get install busybox-static)")
	}
	if files.New(busybox, "").Static() != nil {
		return errors.New("this busybox needs C libraries, which are not in the root made of it (apt-get install busybox-static)")
	}
	for _, dir := range []string{"bin", "proc", "dev", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	raw, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), raw, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"true", "sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return err
		}
	}
	return os.Chmod(root, 0o755)
}

// command runs a program and tells what it said if it fails.
func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func nothing() error { return nil }

func bwrap(_ context.Context, root string) (contestant, error) {
	return contestant{name: "bwrap", close: func() {}, run: func(ctx context.Context) (func() error, error) {
		return nothing, command(ctx, nil, "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true")
	}}, nil
}

func podman(_ context.Context, root string) (contestant, error) {
	dir, err := os.MkdirTemp("", "hearth-bench-podman-")
	if err != nil {
		return contestant{}, err
	}
	conf := filepath.Join(dir, "containers.conf")
	args := []string{"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--cgroup-manager=cgroupfs", "--storage-driver=vfs", "--events-backend=file"}
	if path, err := exec.LookPath("runc"); err == nil {
		args = append(args, "--runtime="+path)
	}
	args = append(args, "run", "--rm", "--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--rootfs", root+":O", "/bin/true")
	return contestant{name: "podman run", close: func() { os.RemoveAll(dir) }, run: func(ctx context.Context) (func() error, error) {
		return nothing, command(ctx, []string{"CONTAINERS_CONF=" + conf}, "podman", args...)
	}}, os.WriteFile(conf, []byte("[containers]\ndefault_ulimits=[]\n"), 0o644)
}

// docker starts an engine of its own, apart from any the machine has.
func docker(ctx context.Context, root string) (contestant, error) {
	dir, err := os.MkdirTemp("", "hearth-bench-docker-")
	if err != nil {
		return contestant{}, err
	}
	socket := "unix://" + filepath.Join(dir, "sock")
	daemon := exec.Command("dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "-H", socket, "-p", filepath.Join(dir, "pid"))
	if err := daemon.Start(); err != nil {
		return contestant{}, err
	}
	env := []string{"DOCKER_HOST=" + socket}
	c := contestant{name: "docker run", close: func() {
		_ = daemon.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		_ = daemon.Wait()                          // how it ended is of no use
		_ = os.RemoveAll(dir)
	}}
	c.run = func(ctx context.Context) (func() error, error) {
		name := "bench-" + newID()
		remove := func() error { return command(context.WithoutCancel(ctx), env, "docker", "rm", "-f", name) }
		return remove, command(ctx, env, "docker", "run", "--name", name, "--network=none", "bench", "/bin/true")
	}
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := eventually(starting, "dockerd answers", func() (bool, error) { return command(ctx, env, "docker", "info") == nil, nil }); err != nil {
		c.close()
		return c, err
	}
	archive := filepath.Join(dir, "root.tar")
	if err := errors.Join(command(ctx, nil, "tar", "-C", root, "-cf", archive, "."), command(ctx, env, "docker", "import", archive, "bench")); err != nil {
		c.close()
		return c, err
	}
	return c, nil
}
