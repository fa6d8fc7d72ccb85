// Package server is the HTTP side of the brain: routes, authorisation, errors,
// paging and event streams. It owns no data; each handler decodes a request,
// calls the package that does, and encodes the answer.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/agent"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/deployment"
	"hearth/internal/brain/dream"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/file"
	"hearth/internal/brain/gateway"
	"hearth/internal/brain/memory"
	"hearth/internal/brain/profile"
	"hearth/internal/brain/queue"
	"hearth/internal/brain/seal"
	"hearth/internal/brain/session"
	"hearth/internal/brain/skill"
	"hearth/internal/brain/tunnel"
	"hearth/internal/brain/vault"
	"hearth/internal/brain/webhook"
	"hearth/internal/db"
)

// Config is what the server serves.
type Config struct {
	DB           *db.DB
	Keys         *auth.Keys
	Agents       *agent.Store
	Environments *environment.Store
	Sessions     *session.Store
	Files        *file.Store
	Memories     *memory.Store
	Skills       *skill.Store
	Vaults       *vault.Store
	Sealer       *seal.Sealer
	Tunnels      *tunnel.Store
	Profiles     *profile.Store
	Dreams       *dream.Store
	Webhooks     *webhook.Store
	Deployments  *deployment.Store
	// Gateway passes messages to the models' provider; nil if there is none.
	Gateway *gateway.Gateway
	Queue   *queue.Queue
	// Limits are those of each client. Default none.
	Limits Limits
	Log    *slog.Logger // default slog.Default()
	// PingInterval is how often an idle event stream is kept alive. Default 15 s.
	PingInterval time.Duration
	// Stopping ends event streams and long polls, for a shutdown. Default never.
	Stopping context.Context
}

// MaxBody is how many bytes a request's body may have.
const MaxBody = 32 << 20

type server struct {
	Config
	creates, reads *limiter
}

// handler answers a request with an object to encode as JSON, or an error. A
// handler that has written the answer itself returns written.
type handler func(*request) (any, error)

// written says that the answer has been written.
var written = new(struct{})

// New is the API as an http.Handler.
func New(cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.PingInterval == 0 {
		cfg.PingInterval = 15 * time.Second
	}
	if cfg.Stopping == nil {
		cfg.Stopping = context.Background()
	}
	s := &server{Config: cfg, creates: newLimiter(cfg.Limits.Create), reads: newLimiter(cfg.Limits.Read)}
	mux := http.NewServeMux()
	byPath := map[string]map[string]route{}
	for _, rt := range s.routes() {
		if byPath[rt.path] == nil {
			byPath[rt.path] = map[string]route{}
		}
		byPath[rt.path][rt.method] = rt
	}
	for path, methods := range byPath {
		mux.Handle(path, s.methods(path, methods))
	}
	mux.Handle("/", s.answer("", func(r *request) (any, error) {
		return nil, &api.Error{Status: http.StatusNotFound, Type: api.ErrNotFound, Message: fmt.Sprintf("there is nothing at %.200s", r.URL.Path)}
	}))
	return mux
}

// methods answers a path by method.
func (s *server) methods(path string, methods map[string]route) http.Handler {
	allowed := []string{}
	handlers := map[string]http.Handler{}
	for method, rt := range methods {
		allowed = append(allowed, method)
		handlers[method] = s.answer(method+" "+path, func(r *request) (any, error) {
			if err := s.authorise(r, rt); err != nil {
				return nil, err
			}
			if err := r.plain(); err != nil {
				return nil, err
			}
			return rt.handle(r)
		})
	}
	slices.Sort(allowed)
	wrong := s.answer(path, func(r *request) (any, error) {
		r.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, &api.Error{Status: http.StatusMethodNotAllowed, Type: api.ErrInvalidRequest, Message: fmt.Sprintf("%s takes %s, not %s", path, strings.Join(allowed, " and "), r.Method)}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := handlers[r.Method]; ok {
			h.ServeHTTP(w, r)
			return
		}
		wrong.ServeHTTP(w, r)
	})
}

// answer turns a handler into an http.Handler: the request id, the encoding of
// answers and errors, and the log.
func (s *server) answer(pattern string, handle handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		began := time.Now()
		recorder := &statusRecorder{ResponseWriter: w}
		r := &request{Request: hr, whole: hr.Body, w: recorder, id: api.NewID(api.PrefixRequest)}
		w.Header().Set("request-id", r.id)
		w.Header().Set(api.HeaderServer, "1")
		hr.Body = http.MaxBytesReader(w, hr.Body, MaxBody)
		var out any
		var err error
		defer func() { s.log(r, pattern, time.Since(began), err) }() // of one that breaks off, too
		out, err = protect(handle, r)
		switch {
		case err != nil:
			s.fail(r, err)
		case out != written:
			writeJSON(recorder, http.StatusOK, out)
		}
	})
}

func (s *server) log(r *request, pattern string, took time.Duration, err error) {
	level := slog.LevelDebug
	if r.w.status >= 400 {
		level = slog.LevelInfo
	}
	line := []any{"method", r.Method, "route", pattern, "status", r.w.status, "took", took.Round(time.Microsecond),
		"principal", string(r.principal.Kind), "key", r.principal.ID, "workspace", r.principal.WorkspaceID, "request_id", r.id}
	if why := refusal(err); why != "" {
		line = append(line, "refused", why)
	}
	s.Log.Log(r.Context(), level, "request", append(line, r.noted...)...)
}

// refusal is why somebody may not do something; "" for every other error.
func refusal(err error) string {
	var wire *api.Error
	if errors.As(err, &wire) && slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests}, wire.Status) {
		return wire.Message
	}
	return ""
}

// protect turns a panic into an error with its stack.
func protect(handle handler, r *request) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return handle(r)
}

// fail writes an error. What is not meant for clients is logged, once, and
// told to them as a request id only.
func (s *server) fail(r *request, err error) {
	var wire *api.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		wire = &api.Error{Status: http.StatusRequestEntityTooLarge, Type: api.ErrTooLarge, Message: fmt.Sprintf("the body has more than %d bytes", tooLarge.Limit)}
	case errors.As(err, &wire):
	case r.Context().Err() != nil:
		return // nobody listens any more
	default:
		s.Log.Error("request failed", "error", err, "method", r.Method, "path", r.URL.Path, "request_id", r.id)
		wire = &api.Error{Status: http.StatusInternalServerError, Type: api.ErrAPI, Message: "the server failed; its log has the cause under this request's id"}
	}
	if r.w.status != 0 {
		return // the answer has begun
	}
	if wire.NoRetry {
		r.w.Header().Set("x-should-retry", "false")
	}
	writeJSON(r.w, wire.Status, api.ErrorEnvelope{Type: "error", Error: wire, RequestID: r.id})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Errorf("encode an answer: %w", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // the client may be gone
}

// statusRecorder remembers the status for the log.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	if status >= 200 { // others announce one that is to come
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap gives http.ResponseController the real writer.
func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// grace is how long requests in flight may take to finish at a shutdown.
const grace = 10 * time.Second

// Serve serves h on the listener until ctx ends, then lets requests in flight
// finish. The handler's Config.Stopping should end with ctx, or streams would
// be waited for.
func Serve(ctx context.Context, listener net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		return errors.Join(fmt.Errorf("requests were still in flight after %s: %w", grace, err), server.Close())
	}
	return nil
}
