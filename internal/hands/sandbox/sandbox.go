// Package sandbox is the contract between the worker and whatever isolates a
// session: an Engine makes sandboxes, a Sandbox runs tool calls through the
// hand inside it. One sub-package per engine; package sandboxtest holds the
// suite every engine must pass. It owns the on-disk layout of sandbox state
// and may call only package hand and the shared floor.
package sandbox

import (
	"context"
	"path/filepath"
	"time"

	"hearth/internal/hands/hand"
)

// Spec says what sandbox to make.
type Spec struct {
	// ID names the sandbox: 26 lowercase characters [a-z0-9], of one fixed
	// length because some engines match ids by prefix. Required.
	ID string
	// Workdir is the host directory that appears, writable, at GuestWorkdir.
	// It is created when missing and survives the sandbox.
	Workdir string
	// Mnt is the host directory that appears, writable, at GuestMnt. Like Workdir
	// it is created when missing, survives the sandbox, and is on the same file
	// system. An engine that has no file system of its own leaves it out. "" for
	// none.
	Mnt string
	// Held tells that the directories are open elsewhere already, and must stay the
	// ones they are.
	Held bool
	// Root is a file with an EROFS file system, made by package image, that the root
	// is made from. Default the host's own programs and libraries. An engine that
	// cannot says so in Create.
	Root string
	// Env is added to the sandbox's environment. Nothing of the worker's own
	// environment is inherited.
	Env map[string]string
	// Limits bound what the sandbox may use, as far as the host lets the engine
	// enforce them.
	Limits Limits
	// Labels are stored with the sandbox and come back from List.
	Labels map[string]string
}

// Absolute is the specification with absolute paths, for a sandbox is started by
// processes that begin elsewhere.
func (s Spec) Absolute() (Spec, error) {
	for _, path := range []*string{&s.Workdir, &s.Mnt, &s.Root} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// GuestWorkdir is where Spec.Workdir appears inside engines that have a
// filesystem of their own. The process engine has none and uses the host path.
const GuestWorkdir = "/workspace"

// GuestMnt is where Spec.Mnt appears: what is mounted for a session lies below.
const GuestMnt = "/mnt"

// Info describes a sandbox an engine knows of, alive or left behind.
type Info struct {
	ID      string
	Labels  map[string]string
	Created time.Time
	// Owner is the process id of the worker that made it, and OwnerAlive
	// whether that very process (not a later one with its id) still runs.
	Owner      int
	OwnerAlive bool
}

// Engine makes and destroys sandboxes of one kind. Its methods are safe for
// concurrent use.
type Engine interface {
	// Name is the engine's name on the command line, for example "namespace".
	Name() string
	// Check reports why the engine cannot work on this host, in words that
	// name the fix; nil when it can. It is cheap and makes nothing.
	Check(ctx context.Context) error
	// Create starts a sandbox whose hand has answered ready.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// List reports every sandbox of this engine under the same state
	// directory, those of dead workers too.
	List(ctx context.Context) ([]Info, error)
	// Label gives a sandbox other labels.
	Label(ctx context.Context, id string, labels map[string]string) error
	// Destroy removes a sandbox by id, whoever made it: processes, mounts,
	// cgroups and scratch files, not the workdir. An unknown id is no error.
	Destroy(ctx context.Context, id string) error
}

// Sandbox is one running sandbox. Call is safe for concurrent use.
type Sandbox interface {
	ID() string
	// Workdir is the working directory as tools inside see it.
	Workdir() string
	// Call runs one tool call. The error is about the sandbox (dead,
	// unreachable), never about the tool; it is a *LimitError where a limit ended
	// the sandbox. Cancelling ctx stops the tool.
	Call(ctx context.Context, call hand.Call) (hand.Result, error)
	// Terminal opens a terminal inside, for a person; it is closed when ctx ends.
	Terminal(ctx context.Context, t hand.Terminal) (*hand.Screen, error)
	// Pause stops everything inside where it is, and Resume lets it go on. A
	// call waits meanwhile. A host that cannot is an error; ctx that ends first ends
	// the sandbox.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Done is closed when the sandbox has died or been destroyed.
	Done() <-chan struct{}
	// Destroy stops everything inside and frees what the sandbox held, except
	// its workdir. It may be called more than once.
	Destroy(ctx context.Context) error
}

// Checkpointer is a Sandbox that can be put on disk.
type Checkpointer interface {
	Sandbox
	// Checkpoint writes all there is in the sandbox's memory and scratch files to
	// dir, which must not exist and be on the file system of the engine's state,
	// and destroys the sandbox, even if it fails. No call may be in flight.
	Checkpoint(ctx context.Context, dir string) error
}

// Parker is an Engine that can bring sandboxes back.
type Parker interface {
	Engine
	// Owner is the host user that stands, or will stand, behind the root of
	// sandboxes over those directories, which it makes where they are missing.
	Owner(workdir, mnt string) (uid int, err error)
	// Restore makes the sandbox that a Checkpoint has left in dir, of the same id
	// and specification, over the same working directory. Everything goes on where
	// it was. Dir is not changed; a sandbox must not be restored twice.
	Restore(ctx context.Context, spec Spec, dir string) (Sandbox, error)
}
