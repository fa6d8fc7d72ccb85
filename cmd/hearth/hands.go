package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	blobstore "hearth/internal/blob"
	"hearth/internal/hands/depot"
	"hearth/internal/hands/image"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
	"hearth/internal/hands/sandbox/docker"
	"hearth/internal/hands/sandbox/gvisor"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/internal/hands/sandbox/process"
	"hearth/internal/hands/worker"
)

// The engines there are.
const (
	engineAuto      = "auto"
	engineGVisor    = "gvisor"
	engineNamespace = "namespace"
	engineDocker    = "docker"
	engineProcess   = "process"
)

func registerEngine(flags *pflag.FlagSet, engine *string) {
	*engine = engineAuto
	oneOf(flags, engine, "engine", "", "what isolates a session: gvisor (a kernel of its own), namespace (walls in this host's kernel), docker (a container of --docker-image), process (nothing does: only for code you would run yourself), or auto (gvisor where it works, else namespace)",
		engineAuto, engineGVisor, engineNamespace, engineDocker, engineProcess)
}

// registerDocker adds the settings of the docker engine.
func registerDocker(flags *pflag.FlagSet, cfg *docker.Config) {
	flags.StringVar(&cfg.Image, "docker-image", docker.DefaultImage, "the image of the docker engine's sandboxes; it must have bash")
	flags.StringVar(&cfg.Host, "docker-host", "", "the socket of the Docker daemon (default DOCKER_HOST, or "+docker.DefaultHost+")")
	flags.StringVar(&cfg.Runtime, "docker-runtime", "", "what the Docker daemon runs sandboxes with, for example runsc (default its own default)")
}

// newDocker makes the docker engine with those settings.
func newDocker(cfg docker.Config, stateDir, hand string, log *slog.Logger) sandbox.Engine {
	cfg.StateDir, cfg.Program, cfg.Log = stateDir, hand, log
	cfg.Host = firstOf(cfg.Host, os.Getenv("DOCKER_HOST"))
	return docker.New(cfg)
}

// imageFlags choose what the roots of sandboxes are made from.
type imageFlags struct {
	ref   string
	cache byteSize
}

func (f *imageFlags) register(flags *pflag.FlagSet) {
	f.cache = image.DefaultLimit
	flags.StringVar(&f.ref, "image", "", "the image to make sandboxes' roots from, with the gvisor or the namespace engine: a name in a registry, or the path (/… or ./…) of an archive or OCI layout; it must have bash (default the host's own programs)")
	flags.Var(&f.cache, "image-cache", "how much the images kept below --state may take before those used longest ago go")
}

// check refuses an image where no use is made of it.
func (f *imageFlags) check(engine string, onWork bool) error {
	switch {
	case f.cache <= 0:
		return usageError("--image-cache: want more than 0")
	case f.ref == "":
		return nil
	case onWork:
		return usageError("--image is not for --on-work, whose script opens the sandboxes")
	case engine == engineDocker:
		return usageError("--image is not for the docker engine, whose daemon has images of its own; name one with --docker-image")
	case engine == engineProcess:
		return usageError("--image is not for the process engine, which runs on the host's own files")
	}
	return nil
}

// get fetches the image, which is in use until it is closed.
func (f *imageFlags) get(ctx context.Context, stateDir string, log *slog.Logger) (*image.Image, error) {
	store, err := image.Open(filepath.Join(stateDir, "images"), int64(f.cache), log)
	if err != nil {
		return nil, err
	}
	i, err := store.Get(ctx, f.ref)
	if err != nil {
		return nil, fmt.Errorf("--image: %w", err)
	}
	if !i.Bash {
		i.Close()
		return nil, usageError("--image: %s has no /bin/bash, in which sessions run their commands; choose one that has", f.ref)
	}
	return i, nil
}

// newEngine makes the engine asked for and makes sure it works here.
func (h handsConfig) newEngine(ctx context.Context) (sandbox.Engine, error) {
	name, stateDir, log := h.engine, h.stateDir, h.log
	if name == engineDocker { // whose daemon makes the control groups
		if err := newDocker(h.docker, stateDir, "", log).Check(ctx); err != nil {
			return nil, usageError("the %s engine does not work on this host: %w", name, err)
		}
	}
	hand, err := handFile(stateDir, log) // once it is known that it is of use
	if err != nil {
		return nil, err
	}
	if name == engineDocker {
		return newDocker(h.docker, stateDir, hand, log), nil
	}
	groups := findGroups(log)
	if name == engineAuto {
		engine := engineOf(engineGVisor, stateDir, hand, groups, log)
		err := tryOut(ctx, engine, stateDir)
		if err == nil {
			return engine, nil
		}
		log.Warn("gVisor does not work here, so sandboxes share this host's kernel", "engine", engineNamespace, "error", err)
		name = engineNamespace
	}
	engine := engineOf(name, stateDir, hand, groups, log)
	if name == engineProcess {
		log.Warn("the process engine isolates nothing: tools run with this worker's own rights")
	}
	if h.untried || name == engineProcess {
		err = engine.Check(ctx)
	} else {
		err = tryOut(ctx, engine, stateDir)
	}
	if err != nil {
		return nil, usageError("the %s engine does not work on this host, of which hearth doctor says more: %w", name, err)
	}
	return engine, nil
}

// ownEngines makes every engine that needs nothing installed, the preferred first.
// None limits anything: to find where it could may change the control groups.
func ownEngines(stateDir, hand string, log *slog.Logger) (all []sandbox.Engine) {
	for _, name := range []string{engineGVisor, engineNamespace, engineProcess} {
		all = append(all, engineOf(name, stateDir, hand, nil, log))
	}
	return all
}

// engineOf makes an engine that needs no daemon.
func engineOf(name, stateDir, hand string, groups *cgroup.Tree, log *slog.Logger) sandbox.Engine {
	switch name {
	case engineGVisor:
		return gvisor.New(gvisor.Config{StateDir: stateDir, Groups: groups, Hand: hand, Log: log})
	case engineNamespace:
		return namespace.New(namespace.Config{StateDir: stateDir, Groups: groups, Hand: hand, Log: log})
	}
	return process.New(stateDir, groups, log)
}

// tryOut starts a sandbox of an engine and removes it again.
func tryOut(ctx context.Context, engine sandbox.Engine, stateDir string) error {
	if err := engine.Check(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	id := strings.ToLower(rand.Text())
	work := filepath.Join(stateDir, "tried", id)
	defer os.RemoveAll(work)
	s, err := engine.Create(ctx, sandbox.Spec{ID: id, Workdir: work})
	if err != nil {
		return err
	}
	return s.Destroy(context.WithoutCancel(ctx))
}

// depot opens the store for parked sessions, if there is to be one. It is open for
// the life of this process.
func (h handsConfig) depot(ctx context.Context, environmentID string) (*depot.Depot, error) {
	if h.parkStore == "" {
		return nil, nil
	}
	key := os.Getenv("HEARTH_PARK_KEY")
	if h.parkKeyFile != "" {
		var err error
		if key, err = readSecretFile(h.parkKeyFile); err != nil {
			return nil, usageError("--park-key-file: %w", err)
		}
	}
	if key == "" {
		return nil, usageError("--park-store needs the key that the environment's workers share: set --park-key-file or HEARTH_PARK_KEY (hearth worker park-key makes one)")
	}
	bucket, err := blobstore.Open(ctx, h.parkStore)
	if err != nil {
		return nil, usageError("--park-store: %w", err)
	}
	d, err := depot.New(bucket, key, environmentID, h.log)
	if err != nil {
		return nil, usageError("%w", err)
	}
	return d, nil
}

// target is a queue to serve.
type target struct{ baseURL, environmentID, key string }

// openWorker is a worker, and what it holds on this host.
type openWorker struct {
	*worker.Worker
	image *image.Image // nil for the host's own programs
}

// Close lets go of what the worker, which has ended, held.
func (h openWorker) Close() {
	if h.image != nil {
		h.image.Close()
	}
}

// open makes a worker for a queue.
func (h handsConfig) open(ctx context.Context, to target) (made openWorker, err error) {
	if err := h.prepare(); err != nil {
		return openWorker{}, err
	}
	cfg := worker.Config{
		OnWork: h.onWork, Webhook: h.webhook, Workdir: h.workdir,
		BaseURL: to.baseURL, EnvironmentID: to.environmentID, EnvironmentKey: to.key,
		StateDir: h.stateDir, Limits: h.limits, AgentLimits: h.agents, CallTimeout: h.callTimeout,
		ParkAfter: h.parkAfter, ParkTTL: h.parkTTL, ParkQuota: int64(h.parkQuota), MaxSessions: h.maxSessions, MaxIdle: h.maxIdle, Pool: h.pool, Drain: h.drain, Log: h.log,
	}
	if h.onWork == nil {
		if cfg.Engine, err = h.newEngine(ctx); err != nil {
			return openWorker{}, err
		}
		if _, parks := cfg.Engine.(sandbox.Parker); h.parkStore != "" && !parks {
			h.log.Warn("sessions are not stored for other workers: only gVisor's sandboxes can be parked", "engine", cfg.Engine.Name())
		}
		cfg.Former = h.formerEngines(cfg.Engine.Name())
	}
	if cfg.Depot, err = h.depot(ctx, to.environmentID); err != nil {
		return openWorker{}, err
	}
	if h.image.ref != "" {
		if made.image, err = h.image.get(ctx, h.stateDir, h.log); err != nil {
			return openWorker{}, err
		}
		cfg.Root, cfg.Env = made.image.Path, made.image.Environment()
	}
	if made.Worker, err = worker.New(cfg); err != nil {
		made.Close()
	}
	return made, err
}

// prepare checks the settings, and readies this process for what they ask. It must
// come before an engine is made.
func (h *handsConfig) prepare() error {
	if err := h.check(); err != nil {
		return err
	}
	letOthersIn()
	// Sandboxes are started by processes that begin elsewhere.
	abs, err := filepath.Abs(h.stateDir)
	if err != nil {
		return fmt.Errorf("find the worker's directory: %w", err)
	}
	h.stateDir = abs
	return nil
}

// letOthersIn has the directories of sandboxes made as they are meant to be: what
// runs in a sandbox, as another user, must be able to enter them. What is nobody
// else's business is made so one by one.
func letOthersIn() { syscall.Umask(0o022) }

// check refuses settings that cannot be meant.
func (h *handsConfig) check() error {
	err := checkBounds([]bound{
		{"max-sessions", h.maxSessions > 0, "at least 1"},
		{"pool", h.pool >= 0, "0 or more"},
		{"max-idle", h.maxIdle > 0, "more than 0"},
		{"call-timeout", h.callTimeout > 0, "more than 0"},
		{"drain", h.drain > 0, "more than 0"},
		{"park-after", h.parkAfter >= 0, "0 or more"},
		{"park-ttl", h.parkTTL > 0, "more than 0; --park-after 0 keeps no sandboxes"},
		{"park-quota", h.parkQuota > 0, "more than 0; --park-after 0 keeps no sandboxes"},
	})
	if err != nil {
		return err
	}
	if err := h.image.check(h.engine, h.onWork != nil); err != nil {
		return err
	}
	if h.parkStore != "" {
		switch {
		case h.onWork != nil:
			return usageError("--park-store is not for --on-work, whose script opens the sandboxes")
		case h.workdir != "":
			return usageError("--park-store is not for --workdir, which stays where it is")
		case h.parkAfter == 0:
			return usageError("--park-store needs sandboxes to be parked, which --park-after 0 forbids")
		}
	}
	return h.limitFlags.check()
}

// runWithHands serves the brain until ctx ends or hands returns. The server
// goes last, so that the hands can give back what they hold.
func (b *brain) runWithHands(ctx context.Context, listener net.Listener, hands func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group.Go(func() error { return b.run(serving, listener) })
	group.Go(func() error {
		defer stop()
		return hands(ctx)
	})
	return group.Wait()
}

// cloudEvery is how often new cloud environments are looked for.
const cloudEvery = time.Second

// serveCloud runs a worker for each cloud environment until ctx ends. The
// workers use the API like any other.
func (b *brain) serveCloud(ctx context.Context, baseURL string, hands handsConfig) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	var served sync.Map // ids of environments that have a worker
	for ctx.Err() == nil {
		environments, err := b.envs.Cloud(ctx)
		if err != nil && ctx.Err() == nil {
			hands.log.Error("could not list environments", "error", err)
		}
		for id, workspaceID := range environments {
			if _, already := served.LoadOrStore(id, true); already {
				continue
			}
			if b.keys.CheckOpen(ctx, workspaceID) != nil {
				served.Delete(id)
				continue // nobody is let into its workspace
			}
			workers.Go(func() {
				defer served.Delete(id)
				if err := b.serveEnvironment(ctx, baseURL, workspaceID, id, hands); err != nil && ctx.Err() == nil {
					hands.log.Warn("a built-in worker has ended; there will be another if its environment is still there", "environment", id, "error", err)
				}
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(cloudEvery):
		}
	}
	return nil
}

// serveEnvironment runs a built-in worker with a key of its own, good for the
// life of this process.
func (b *brain) serveEnvironment(ctx context.Context, baseURL, workspaceID, environmentID string, hands handsConfig) error {
	key, err := b.envs.CreateKey(ctx, workspaceID, environmentID, "built-in worker", nil)
	if err != nil {
		return err
	}
	defer func() {
		if _, err := b.envs.RevokeKey(context.WithoutCancel(ctx), workspaceID, environmentID, key.ID); err != nil {
			hands.log.Warn("could not revoke the built-in worker's key", "environment", environmentID, "error", err)
		}
	}()
	w, err := hands.open(ctx, target{baseURL: baseURL, environmentID: environmentID, key: key.Key})
	if err != nil {
		return err
	}
	defer w.Close()
	return w.Run(ctx)
}

// formerEngines are those that an earlier worker on the state directory may have
// had instead of the one that was chosen. They are good only for what it left behind.
// Docker is not among them: its daemon may be gone.
func (h handsConfig) formerEngines(chosen string) []sandbox.Engine {
	return slices.DeleteFunc(ownEngines(h.stateDir, "", h.log), func(e sandbox.Engine) bool { return e.Name() == chosen })
}
