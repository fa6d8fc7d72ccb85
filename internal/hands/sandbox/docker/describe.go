package docker

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/docker/guest"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/record"
)

// The labels of a container: what sandbox it is, and whose.
const (
	labelSandbox    = "hearth.sandbox"
	labelState      = "hearth.state" // the directory of the engine
	labelOwner      = "hearth.owner" // the worker's process id
	labelOwnerStart = "hearth.owner-started"
	labelOwnerLock  = "hearth.owner-lock" // what the worker holds while it lives
)

// label is what all containers of this engine carry.
func (e *Engine) label() (string, error) {
	dir, err := filepath.Abs(string(e.dir))
	return labelState + "=" + dir, err
}

// containerConfig is a container as the daemon wants it described.
type containerConfig struct {
	Image, User, Hostname, WorkingDir string
	Entrypoint, Env                   []string
	Labels                            map[string]string
	// The daemon ends the hand's standard input when the worker's connection ends.
	OpenStdin, StdinOnce bool
	Healthcheck          struct{ Test []string }
	HostConfig           hostConfig
}

type hostConfig struct {
	Mounts             []bindMount
	NetworkMode        string
	IpcMode            string
	CgroupnsMode       string
	UsernsMode         string `json:",omitempty"`
	Runtime            string `json:",omitempty"`
	CapDrop            []string
	SecurityOpt        []string
	ReadonlyRootfs     bool
	AutoRemove         bool
	Init               bool
	LogConfig          struct{ Type string }
	Memory, MemorySwap int64 `json:",omitempty"`
	NanoCpus           int64 `json:",omitempty"`
	PidsLimit          int64 `json:",omitempty"`
}

type bindMount struct {
	Type, Source, Target string
	ReadOnly             bool
}

// handThreads is more than a hand ever has. The limit of processes counts threads
// too, and must not keep the hand from making those it needs.
const handThreads = 100

// The limits of a sandbox that is given none.
const (
	defaultProcesses = 4096
	defaultOpenFiles = 65536
)

// describe describes a sandbox's container, and makes the files it needs on the
// host.
func (e *Engine) describe(spec sandbox.Spec, r *record.Record, d *daemon) (containerConfig, error) {
	var c containerConfig
	dir, err := filepath.Abs(string(e.dir))
	if err != nil {
		return c, err
	}
	at, err := spec.Absolute()
	if err != nil {
		return c, err
	}
	program, err := e.program.Path()
	if err != nil {
		return c, err
	}
	if program, err = filepath.Abs(program); err != nil {
		return c, err
	}
	users, err := hostroot.UsersOf(dir, at.Workdir, at.Mnt)
	if err != nil {
		return c, err
	}
	mounts, err := files(filepath.Join(dir, spec.ID), users, d)
	if err != nil {
		return c, err
	}
	if at.Mnt != "" {
		mounts = append(mounts, bindMount{"bind", at.Mnt, sandbox.GuestMnt, false})
	}
	processes := cmp.Or(spec.Limits.Processes, defaultProcesses)
	own := processes // what the shell may start, counted by its user
	if !users.Many() {
		own = 0 // the worker's user, who runs more than that
	}
	uid, gid := inside(users, d)
	c = containerConfig{
		Image: e.cfg.Image, User: fmt.Sprintf("%d:%d", uid, gid), Hostname: "sandbox", WorkingDir: sandbox.GuestWorkdir,
		Entrypoint: []string{guest.Path, strconv.Itoa(own), strconv.Itoa(cmp.Or(spec.Limits.OpenFiles, defaultOpenFiles))},
		Env:        []string{"HOME=" + home, "LANG=C.UTF-8", "TERM=dumb", "SANDBOX_ID=" + spec.ID},
		OpenStdin:  true, StdinOnce: true,
		Labels: map[string]string{
			labelSandbox: spec.ID, labelState: dir, labelOwner: strconv.Itoa(r.Owner.PID), labelOwnerStart: strconv.FormatUint(r.Owner.Start, 10), labelOwnerLock: r.Owner.Lock,
		},
		HostConfig: hostConfig{
			Mounts:      append(mounts, bindMount{"bind", at.Workdir, sandbox.GuestWorkdir, false}, bindMount{"bind", program, guest.Path, true}),
			NetworkMode: "none", IpcMode: "private", CgroupnsMode: "private", Runtime: e.cfg.Runtime,
			CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"}, ReadonlyRootfs: true, AutoRemove: true,
			Memory: spec.Limits.MemoryBytes, MemorySwap: spec.Limits.MemoryBytes,
			NanoCpus: int64(spec.Limits.CPUs * 1e9), PidsLimit: int64(processes + handThreads),
		},
	}
	for k, v := range spec.Env {
		c.Env = append(c.Env, k+"="+v)
	}
	c.Healthcheck.Test = []string{"NONE"} // the image's would run beside the hand
	c.HostConfig.LogConfig.Type = "none"
	if d.remapped {
		// The sandbox's user is nobody's but its own already, and owns the files.
		c.HostConfig.UsernsMode = "host"
	}
	return c, nil
}

// inside is the sandbox's user as the container knows it. Containers of a daemon
// that is root get an ordinary user: their root would be the host's.
func inside(users hostroot.Users, d *daemon) (uid, gid int) {
	switch {
	case d.rootless: // whose root is the daemon's user, who is the worker's
		return 0, 0
	case users.Many():
		return users.First, users.First
	}
	return os.Getuid(), os.Getgid()
}

// home is the home directory of a sandbox's user.
const home = "/root"

// files makes what a container needs beside its image: places to write to, and
// the names of its users.
func files(dir string, users hostroot.Users, d *daemon) ([]bindMount, error) {
	var mounts []bindMount
	for _, place := range []struct {
		name, target string
		mode         os.FileMode
	}{
		{"tmp", "/tmp", 0o777 | os.ModeSticky}, {"vartmp", "/var/tmp", 0o777 | os.ModeSticky}, {"run", "/run", 0o755}, {"home", home, 0o700},
	} {
		path := filepath.Join(dir, place.name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		// Not by Mkdir, which leaves out what the umask says.
		if err := os.Chmod(path, place.mode); err != nil {
			return nil, err
		}
		if err := users.Chown(path); err != nil {
			return nil, err
		}
		mounts = append(mounts, bindMount{"bind", path, place.target, false})
	}
	uid, gid := inside(users, d)
	passwd, group := "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", "nogroup:x:65534:\n"
	if uid != 0 {
		passwd = "root:x:0:0:root:/:/usr/sbin/nologin\n" + passwd
	}
	if gid != 0 {
		group = "root:x:0:\n" + group
	}
	passwd += fmt.Sprintf("agent:x:%d:%d:agent:%s:/bin/bash\n", uid, gid, home)
	group += fmt.Sprintf("agent:x:%d:\n", gid)
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, bindMount{"bind", path, "/etc/" + name, true})
	}
	return mounts, nil
}
