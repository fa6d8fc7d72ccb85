// Package worker is the hands' outer half: it claims sessions from an
// environment's queue, keeps their leases, runs their tool calls in sandboxes
// and posts the results. It speaks to any server of the Managed Agents API,
// ours or another. It owns its state directory and may call sandbox and hand.
package worker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hearth/api"
	"hearth/internal/hands/depot"
	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/pool"
	"hearth/internal/hands/shell"
)

// Config of a Worker; zero fields take the defaults named.
type Config struct {
	// BaseURL is the server's address. Required.
	BaseURL string
	// EnvironmentID is the environment whose queue is served. Required.
	EnvironmentID string
	// EnvironmentKey authenticates polls, and whatever an item without a
	// secret of its own needs. Required by Run.
	EnvironmentKey string
	// Engine makes sandboxes. Required without OnWork.
	Engine sandbox.Engine
	// Former are engines, beside Engine, that earlier workers on StateDir may have
	// had: what those who were killed left of theirs goes too. Default none.
	Former []sandbox.Engine
	// StateDir holds sessions' working directories and what the worker must
	// remember over a crash. Required.
	StateDir string
	// Workdir is the working directory of sessions, for a worker of only one.
	// Default: one below StateDir for each.
	Workdir string
	// OnWork, if there is one, is run for each session instead of serving it here.
	OnWork *Script
	// Webhook, if there is one, says when to poll. Default: always.
	Webhook *Webhook
	// Root is the file system that sandboxes' roots are made from, and Env what is
	// added to their environment, as in sandbox.Spec. Default the host's, nothing.
	Root string
	Env  map[string]string
	// Limits bound each sandbox. Default none.
	Limits sandbox.Limits
	// AgentLimits bound those of single agents' sessions instead, by agent id.
	AgentLimits map[string]sandbox.Limits
	// Pool is how many sandboxes to keep started ahead of their sessions.
	// Default none.
	Pool int
	// MaxSessions is how many sessions are served at once. Default 8.
	MaxSessions int
	// MaxIdle is how long the worker stays with a session whose turn has
	// ended, if no other waits for its place. Default 60 s.
	MaxIdle time.Duration
	// ParkAfter is how long a session must have been idle for its sandbox to be
	// put on disk, if the engine can; MaxIdle bounds it. Default never: the sandbox
	// is destroyed after MaxIdle.
	ParkAfter time.Duration
	// ParkTTL is how long a parked sandbox is kept, and ParkQuota how many bytes
	// all of them may take. Default 24 h and 10 GiB.
	ParkTTL   time.Duration
	ParkQuota int64
	// Depot, if there is one, is where parked sessions are stored so that other
	// workers can go on with them. Default none: they stay with this one.
	Depot *depot.Depot
	// Drain is how long running calls may take to finish once Run's context
	// has ended. Default 30 s.
	Drain time.Duration
	// CallTimeout bounds one tool call. Default 120 s.
	CallTimeout time.Duration
	// KeepWorkdir is how long a session's files are kept after its last
	// activation. Default 24 h.
	KeepWorkdir time.Duration
	// WorkerID names the worker to the server, which offers it the sessions it
	// served before others. Default host name and a part kept in StateDir.
	WorkerID string
	// HTTPClient makes every request. Default: one that keeps connections.
	HTTPClient *http.Client
	// Log. Default slog.Default().
	Log *slog.Logger
}

// Worker serves one environment.
type Worker struct {
	Config
	wire     *wire          // with the environment key
	parker   sandbox.Parker // nil when sandboxes are not parked
	draining chan struct{}  // closed when no more work is to be begun

	mu       sync.Mutex
	serving  map[*activation]bool // guarded by mu
	lastPoll time.Time            // the last poll that was answered; guarded by mu
}

// New makes a worker. It touches nothing yet.
func New(cfg Config) (*Worker, error) {
	for name, missing := range map[string]bool{
		"BaseURL": cfg.BaseURL == "", "EnvironmentID": cfg.EnvironmentID == "", "Engine": cfg.Engine == nil && cfg.OnWork == nil, "StateDir": cfg.StateDir == "",
	} {
		if missing {
			return nil, fmt.Errorf("worker: %s is required", name)
		}
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = 8
	}
	for _, d := range []struct {
		field    *time.Duration
		fallback time.Duration
	}{{&cfg.MaxIdle, time.Minute}, {&cfg.Drain, 30 * time.Second}, {&cfg.CallTimeout, 2 * time.Minute}, {&cfg.KeepWorkdir, 24 * time.Hour}, {&cfg.ParkTTL, 24 * time.Hour}} {
		if *d.field == 0 {
			*d.field = d.fallback
		}
	}
	if cfg.ParkQuota == 0 {
		cfg.ParkQuota = 10 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 15 * time.Second,
			// Until the answer begins, after all of the request has been sent.
			ResponseHeaderTimeout: 2 * answerTimeout,
			MaxIdleConnsPerHost:   4 * cfg.MaxSessions,
			IdleConnTimeout:       90 * time.Second,
			ForceAttemptHTTP2:     true,
			// Without, all requests go on over a connection that has gone silent.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		}}
	}
	w := &Worker{Config: cfg, draining: make(chan struct{}), serving: map[*activation]bool{}}
	if parker, ok := cfg.Engine.(sandbox.Parker); ok && cfg.ParkAfter > 0 {
		w.parker = parker
		w.KeepWorkdir = max(w.KeepWorkdir, w.ParkTTL) // a sandbox is of no use without the files
		w.MaxIdle = min(w.MaxIdle, w.ParkAfter)
	}
	w.wire = &wire{base: strings.TrimRight(cfg.BaseURL, "/"), credential: cfg.EnvironmentKey, worker: cfg.WorkerID, http: cfg.HTTPClient, ours: new(atomic.Bool)}
	return w, nil
}

// moveIn makes sure that there is a state directory, and the worker's name in it.
func (w *Worker) moveIn() error {
	if err := os.MkdirAll(w.StateDir, 0o711); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	return w.name()
}

// name makes sure that the worker has one, which is that of earlier lives on the
// same state directory.
func (w *Worker) name() error {
	if w.WorkerID != "" {
		return nil
	}
	path := filepath.Join(w.StateDir, "worker-id")
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the worker's name: %w", err)
	}
	if len(raw) == 0 { // or it was being written when power was lost
		host, err := os.Hostname()
		if err != nil {
			host = "worker"
		}
		raw = []byte(host + "-" + newID()[16:])
		if err = os.WriteFile(path+".new", raw, 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			return fmt.Errorf("keep the worker's name: %w", err)
		}
	}
	w.WorkerID = string(raw)
	w.wire.worker = w.WorkerID
	return nil
}

// newID makes the 26 lowercase characters that name a sandbox.
func newID() string { return strings.TrimPrefix(api.NewID("sandbox"), "sandbox_") }

// Status is what a worker is doing.
type Status struct {
	// Sessions are those being served.
	Sessions []string
	// LastPoll is when the server last answered a poll; zero for never.
	LastPoll time.Time
}

// Status reports what the worker is doing.
func (w *Worker) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sessions []string
	for a := range w.serving {
		sessions = append(sessions, a.item.SessionID)
	}
	slices.Sort(sessions)
	return Status{Sessions: slices.Compact(sessions), LastPoll: w.lastPoll}
}

// Run serves the queue until ctx ends, and then drains: it begins no more work,
// lets running calls finish, and hands back what it cannot. It returns early
// only when the server refuses the worker for good.
func (w *Worker) Run(ctx context.Context) error {
	if w.EnvironmentKey == "" {
		return errors.New("worker: EnvironmentKey is required")
	}
	// A server that stops waits for connections that have yet to be used.
	defer w.HTTPClient.CloseIdleConnections()
	if err := w.moveIn(); err != nil {
		return err
	}
	serve, stop, err := w.readyTo(ctx)
	if err != nil {
		return err
	}
	defer stop()
	bell, deafen, err := w.listen()
	if err != nil {
		return err
	}
	defer deafen()
	// Work outlives ctx by the time draining takes.
	working, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var items sync.WaitGroup
	slots := make(chan struct{}, w.MaxSessions)
	w.Log.Info("serving", "environment", w.EnvironmentID, "server", w.BaseURL, "worker", w.WorkerID, "max_sessions", w.MaxSessions)
	err = w.claims(ctx, bell, slots, func(item Item) {
		items.Go(func() {
			// There may be work that was left because there was no slot, or that
			// the session is offered again.
			defer func() { <-slots; bell.ring() }()
			serve(working, item)
		})
	})
	close(w.draining)
	w.Log.Info("draining", "sessions", len(w.Status().Sessions), "at_most", w.Drain)
	timer := time.AfterFunc(w.Drain, abandon)
	defer timer.Stop()
	items.Wait()
	return err
}

// readyTo makes ready what serving an item needs here, and returns how it is
// served, and what ends what was made ready.
func (w *Worker) readyTo(ctx context.Context) (serve func(context.Context, Item) error, stop func(), err error) {
	if w.OnWork != nil {
		w.Log.Info("handing sessions to a script", "script", w.OnWork.Path)
		return w.dispatch, func() {}, nil
	}
	if err := w.reap(ctx); err != nil {
		return nil, nil, err
	}
	w.Log.Info("serving sessions in sandboxes", "engine", w.Engine.Name())
	go w.tidy(ctx)
	empty, leave := w.fillPool(ctx), w.admit(ctx)
	return w.serve, func() { leave(); empty() }, nil
}

// admit lets operators into the sandboxes until ctx ends, or what it returns is
// called.
func (w *Worker) admit(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() {
		server := shell.Server{StateDir: w.StateDir, Sandboxes: w, Log: w.Log}
		if err := server.Run(ctx); err != nil {
			w.Log.Warn("operators cannot open shells in the sandboxes of this worker", "error", err)
		}
	})
	return func() {
		cancel()
		serving.Wait()
	}
}

// Running implements shell.Sandboxes.
func (w *Worker) Running() (sessions []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a := range w.serving {
		if a.box != nil {
			sessions = append(sessions, a.item.SessionID)
		}
	}
	return sessions
}

// Terminal implements shell.Sandboxes.
func (w *Worker) Terminal(ctx context.Context, sessionID string, t hand.Terminal) (*hand.Screen, error) {
	w.mu.Lock()
	var b *box
	for a := range w.serving {
		if a.item.SessionID == sessionID && a.box != nil {
			b = a.box
		}
	}
	w.mu.Unlock()
	if b == nil {
		return nil, shell.ErrUnknown
	}
	return b.terminal(ctx, t)
}

// fillPool has sandboxes started ahead of their sessions. What it returns ends
// that, and waits until those nobody took are gone.
func (w *Worker) fillPool(ctx context.Context) (stop func()) {
	if w.Pool == 0 {
		return func() {}
	}
	p := pool.New(pool.Config{Engine: w.Engine, Size: w.Pool, Dir: filepath.Join(w.StateDir, "pool"), Limits: w.Limits, Root: w.Root, Env: w.Env, Log: w.Log})
	w.Engine = p
	ctx, cancel := context.WithCancel(ctx)
	var filling sync.WaitGroup
	filling.Go(func() { p.Run(ctx) })
	return func() {
		cancel()
		filling.Wait()
	}
}

// Item is a claimed work item.
type Item struct {
	WorkID, EnvironmentID, SessionID string
	// Kind is the type of the item's data; only "session" items are served.
	Kind string
	// Secret is the item's own credential, as polled; it may be empty.
	Secret string
	// LastHeartbeat continues a lease that another process has begun.
	LastHeartbeat string
	// JSON is the item as polled, its secret included.
	JSON json.RawMessage
}

// ItemFromEnvironment reads the item a dispatcher has claimed for this process
// from the official variables. Empty ones count as absent.
func ItemFromEnvironment(getenv func(string) string) (Item, error) {
	item := Item{
		WorkID: getenv("ANTHROPIC_WORK_ID"), EnvironmentID: getenv("ANTHROPIC_ENVIRONMENT_ID"), SessionID: getenv("ANTHROPIC_SESSION_ID"),
		Kind: "session", Secret: getenv("ANTHROPIC_WORK_SECRET"), LastHeartbeat: getenv("ANTHROPIC_WORK_LAST_HEARTBEAT"),
	}
	for _, v := range []struct{ name, value string }{
		{"ANTHROPIC_WORK_ID", item.WorkID}, {"ANTHROPIC_ENVIRONMENT_ID", item.EnvironmentID}, {"ANTHROPIC_SESSION_ID", item.SessionID},
	} {
		if v.value == "" {
			return item, fmt.Errorf("%s is not set; this command serves an item somebody else has claimed", v.name)
		}
	}
	return item, nil
}

// ErrNoCredential says that an item can be asked for with nothing.
var ErrNoCredential = errors.New("ANTHROPIC_WORK_SECRET holds no usable secret of the item, and there is no environment key in ANTHROPIC_ENVIRONMENT_KEY")

// RunOne serves one claimed item and returns when it is done with, or
// ErrNoCredential.
func (w *Worker) RunOne(ctx context.Context, item Item) error {
	if credential, _ := w.token(item); credential == "" {
		return ErrNoCredential
	}
	if err := w.moveIn(); err != nil {
		return err
	}
	if err := w.reap(ctx); err != nil {
		return err
	}
	defer w.admit(ctx)()
	working, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	drain := context.AfterFunc(ctx, func() {
		w.Log.Info("draining", "at_most", w.Drain)
		close(w.draining)
		time.AfterFunc(w.Drain, abandon)
	})
	defer drain()
	return w.serve(working, item)
}

// token is the credential for everything about an item: its own, or the
// environment's.
func (w *Worker) token(item Item) (credential string, own bool) {
	if item.Secret == "" {
		return w.EnvironmentKey, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(item.Secret), "="))
	var secret api.WorkSecret
	if err != nil || json.Unmarshal(raw, &secret) != nil || secret.SessionsToken == "" {
		w.Log.Warn("the item's secret cannot be used; using the environment key", "work", item.WorkID)
		return w.EnvironmentKey, false
	}
	return secret.SessionsToken, true
}

// reap makes the state directory ready: it destroys the sandboxes that workers
// who are gone have left behind.
func (w *Worker) reap(ctx context.Context) error {
	if err := w.reapOf(ctx, w.Engine); err != nil {
		return err
	}
	for _, engine := range w.Former {
		if err := w.reapOf(ctx, engine); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// Nothing of this worker's is in their way.
			w.Log.Warn("sandboxes that an earlier worker left behind may not be gone", "engine", engine.Name(), "error", err)
		}
	}
	return nil
}

func (w *Worker) reapOf(ctx context.Context, engine sandbox.Engine) error {
	left, err := engine.List(ctx)
	if err != nil {
		return fmt.Errorf("list sandboxes left behind: %w", err)
	}
	for _, s := range left {
		if s.OwnerAlive {
			continue
		}
		if err := engine.Destroy(ctx, s.ID); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// The others are not to suffer for it; the next worker tries again.
			w.Log.Error("could not destroy a sandbox that an earlier worker left behind", "engine", engine.Name(), "sandbox", s.ID, "session", s.Labels["session"], "error", err)
			continue
		}
		w.Log.Info("destroyed a sandbox that an earlier worker left behind", "engine", engine.Name(), "sandbox", s.ID, "session", s.Labels["session"])
	}
	return nil
}
