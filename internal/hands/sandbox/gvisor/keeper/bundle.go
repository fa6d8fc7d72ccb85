package keeper

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/gvisor/guest"
)

// The limits of a sandbox that is given none.
const (
	defaultProcesses = 4096
	defaultOpenFiles = 65536
)

// capabilities are those by which root handles files and users. The guest's
// kernel is its own, and yet needs to grant no more.
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"}

// bundle describes the guest.
func (o Orders) bundle() *specs.Spec {
	files := uint64(cmp.Or(o.Limits.OpenFiles, defaultOpenFiles))
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "sandbox",
		Root:     &specs.Root{Path: filepath.Join(stage, "root")},
		Process: &specs.Process{
			Args: []string{guest.Path}, Env: o.environment(), Cwd: sandbox.GuestWorkdir,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files, Soft: files}, {Type: "RLIMIT_CORE"}},
			NoNewPrivileges: true,
		},
		Annotations: o.annotations(),
		Mounts:      o.mounts(),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.UserNamespace},
			},
			UIDMappings: o.mapping(), GIDMappings: o.mapping(),
		},
	}
}

func (o Orders) mounts() []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=64m"}},
	}
	share := func(name, target, how string) {
		mounts = append(mounts, specs.Mount{Destination: target, Type: "bind", Source: filepath.Join(stage, name), Options: []string{"rbind", how, "nosuid", "nodev"}})
	}
	share("workdir", sandbox.GuestWorkdir, "rw")
	if o.Mnt != "" {
		share("mnt", sandbox.GuestMnt, "rw")
	}
	if o.Rootfs != "" {
		share("hand", guest.Path, "ro")
	}
	return mounts
}

// annotations have gVisor read the root from a file by itself, and put what is
// changed in it where it puts what is changed in a root made of the host's files.
func (o Orders) annotations() map[string]string {
	if o.Rootfs == "" {
		return nil
	}
	const rootfs = "dev.gvisor.spec.rootfs."
	annotations := map[string]string{
		rootfs + "type": "erofs", rootfs + "source": filepath.Join(stage, "rootfs"), rootfs + "overlay": "dir=" + filepath.Join(stage, "scratch"),
	}
	if o.Limits.DiskBytes > 0 {
		annotations[rootfs+"options"] = fmt.Sprintf("size=%d", o.Limits.DiskBytes)
	}
	return annotations
}

// mapping puts the sandbox's users behind those of the guest. An ordinary
// worker's keeper is root in a namespace of its own, with no user but that.
func (o Orders) mapping() []specs.LinuxIDMapping {
	first := o.Users.First
	if !o.Users.Many() {
		first = 0
	}
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(first), Size: uint32(o.Users.Count)}}
}

func (o Orders) environment() []string {
	processes := cmp.Or(o.Limits.Processes, defaultProcesses)
	return sandbox.Environment(o.Env, map[string]string{"SANDBOX_ID": o.ID, guest.Processes: strconv.Itoa(processes)})
}
