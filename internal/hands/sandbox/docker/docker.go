// Package docker is the engine for hosts that have a Docker daemon: each sandbox
// is a container, of an image that the operator names, with this binary in it as
// its first process. Containers share the host's kernel. It owns the containers
// called hearth-*, and may call sandbox and hand.
//
// The hand listens at the container's standard streams, over a connection that
// ends with the worker; then the hand ends, the container with it, and the daemon
// removes it.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/program"
	"hearth/internal/hands/sandbox/record"
)

// What is used where nothing else is asked for.
const (
	DefaultImage = "debian:stable-slim"
	DefaultHost  = "unix:///var/run/docker.sock"
)

// Config of an Engine.
type Config struct {
	// StateDir holds the engine's scratch files.
	StateDir string
	// Image is what sandboxes are made of. It must have /bin/bash. It is pulled
	// when the daemon does not have it. Default DefaultImage.
	Image string
	// Host is the daemon's socket, on this host. Default DefaultHost.
	Host string
	// Runtime is what the daemon is to run containers with, "runsc" for instance.
	// Default its own default.
	Runtime string
	// Program is a program, statically linked, with what is the containers' first
	// process. Default: the file this process runs.
	Program string
	// Log. Default slog.Default().
	Log *slog.Logger
}

// Engine implements sandbox.Engine.
type Engine struct {
	cfg     Config
	dir     record.Dir
	program *program.File

	connecting sync.Mutex
	daemon     *daemon // guarded by connecting; nil before it has answered
}

// New makes the engine.
func New(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Image == "" {
		cfg.Image = DefaultImage
	}
	if cfg.Host == "" {
		cfg.Host = DefaultHost
	}
	dir := filepath.Join(cfg.StateDir, "docker")
	return &Engine{cfg: cfg, dir: record.Dir(dir), program: program.New(cfg.Program, dir)}
}

// Name implements sandbox.Engine.
func (e *Engine) Name() string { return "docker" }

// Check implements sandbox.Engine. The image may be missing: it is pulled when it is
// first needed.
func (e *Engine) Check(ctx context.Context) error {
	d, err := e.connect(ctx)
	if err != nil {
		return err
	}
	if err := d.knows(ctx, e.cfg.Image, e.cfg.Runtime); err != nil {
		return err
	}
	return e.program.Static()
}

// cleaning is how long what could not be made may take to be removed.
const cleaning = 30 * time.Second

// creating is how long the daemon may take to make a container of an image it has.
const creating = 2 * time.Minute

// Create implements sandbox.Engine.
func (e *Engine) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if spec.Root != "" {
		return nil, errors.New("create sandbox: the docker engine makes no root from an image")
	}
	d, err := e.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	r, err := e.dir.Create(spec, nil)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	s, err := e.start(ctx, spec, r, d)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaning)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("create sandbox %s: %w", spec.ID, err), e.Destroy(ctx, spec.ID))
	}
	return s, nil
}

func (e *Engine) start(ctx context.Context, spec sandbox.Spec, r *record.Record, d *daemon) (*sandbox.Child, error) {
	described, err := e.describe(spec, r, d)
	if err != nil {
		return nil, err
	}
	id, err := e.make(ctx, d, spec.ID, described)
	if err != nil {
		return nil, err
	}
	c := &container{api: d.api, id: id}
	return sandbox.Launch{
		Spec: spec, Inside: sandbox.GuestWorkdir, Process: c, Bounds: c, Scratch: e.dir.Path(spec.ID), Shared: true,
		Started: func(int) error { return nil }, // the container is known by its name
		Free:    func(ctx context.Context) error { return e.Destroy(ctx, spec.ID) },
	}.Run(ctx)
}

// make makes a container and returns the daemon's id for it, pulling the image
// where it is missing.
func (e *Engine) make(ctx context.Context, d *daemon, id string, described containerConfig) (string, error) {
	var made struct{ ID string }
	// What the daemon has begun to make it makes, whether anybody waits or not, and it
	// can be removed only afterwards.
	create := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), creating)
		defer cancel()
		return d.do(ctx, request{method: http.MethodPost, path: "/containers/create", query: url.Values{"name": {containerName(id)}}, body: described}, &made)
	}
	err := create()
	if refused(err, http.StatusNotFound) {
		e.cfg.Log.Info("pulling the image of sandboxes", "image", e.cfg.Image)
		if err := d.pull(ctx, e.cfg.Image); err != nil {
			return "", fmt.Errorf("the image %q is not here and cannot be pulled; pull it by hand (docker pull %[1]s) or name another with --docker-image: %w", e.cfg.Image, err)
		}
		err = create()
	}
	return made.ID, err
}

// containerName is the name of a sandbox's container.
func containerName(id string) string { return "hearth-" + id }

// List implements sandbox.Engine. The records tell of the sandboxes; containers
// that have none, of a worker killed at an unlucky instant or whose state was
// lost, tell of themselves.
func (e *Engine) List(ctx context.Context) ([]sandbox.Info, error) {
	infos, err := e.dir.Infos()
	if err != nil {
		return nil, err
	}
	d, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	mine, err := e.label()
	if err != nil {
		return nil, err
	}
	var found []struct {
		Created int64
		Labels  map[string]string
	}
	list := request{method: http.MethodGet, path: "/containers/json", query: url.Values{"all": {"1"}, "filters": {fmt.Sprintf(`{"label":[%q]}`, mine)}}}
	if err := d.do(ctx, list, &found); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, info := range infos {
		known[info.ID] = true
	}
	for _, c := range found {
		if known[c.Labels[labelSandbox]] {
			continue
		}
		owner := record.Owner{Lock: c.Labels[labelOwnerLock]}
		owner.PID, _ = strconv.Atoi(c.Labels[labelOwner]) // 0 is nobody
		owner.Start, _ = strconv.ParseUint(c.Labels[labelOwnerStart], 10, 64)
		infos = append(infos, sandbox.Info{ID: c.Labels[labelSandbox], Created: time.Unix(c.Created, 0), Owner: owner.PID, OwnerAlive: e.dir.Alive(owner)})
	}
	return infos, nil
}

// Label implements sandbox.Engine. Those of a container cannot be changed.
func (e *Engine) Label(_ context.Context, id string, labels map[string]string) error {
	return e.dir.Label(id, labels)
}

// Destroy implements sandbox.Engine.
func (e *Engine) Destroy(ctx context.Context, id string) error {
	if !record.IsID(id) {
		return nil
	}
	d, err := e.connect(ctx)
	if err == nil {
		err = d.remove(ctx, containerName(id))
	}
	if err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", id, err)
	}
	return e.dir.Destroy(ctx, id)
}

// remove ends a container and removes it, and waits until it is gone. The daemon
// may be removing it already, because it has ended.
func (d *daemon) remove(ctx context.Context, name string) error {
	for {
		err := d.do(ctx, request{method: http.MethodDelete, path: "/containers/" + name, query: url.Values{"force": {"1"}, "v": {"1"}}}, nil)
		if err == nil || refused(err, http.StatusNotFound) {
			return nil
		}
		if !refused(err, http.StatusConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
