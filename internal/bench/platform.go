package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/client"
)

// patience bounds every single wait.
const patience = 2 * time.Minute

// program is a process that was started for the run.
type program struct {
	cmd  *exec.Cmd
	dir  string
	said bytes.Buffer // read only once it has ended
}

// start starts the program with a directory of its own.
func start(ctx context.Context, cfg Config, env []string, args ...string) (*program, error) {
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return nil, err
	}
	p := &program{dir: dir}
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "DIR", dir)
	}
	p.cmd = exec.CommandContext(ctx, cfg.Binary, args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, &p.said, &p.said
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = patience
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return p, nil
}

// end stops the program and removes its directory.
func (p *program) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	_ = p.cmd.Wait()                          // how it ended is of no use
	_ = os.RemoveAll(p.dir)
}

// platform is a server to measure.
type platform struct {
	cfg    Config
	server *program
	url    string
	client *client.Client
	agent  string
}

// open starts a server.
func open(ctx context.Context, cfg Config, databaseURL string) (*platform, error) {
	var env []string
	if databaseURL != "" {
		env = append(env, "HEARTH_DATABASE_URL="+databaseURL)
	}
	server, err := start(ctx, cfg, env, "serve", "--listen", "127.0.0.1:0", "--data", "DIR", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	p := &platform{cfg: cfg, server: server}
	if err := p.connect(ctx); err != nil {
		server.end()
		return nil, fmt.Errorf("%w: %s", err, server.said.String())
	}
	return p, nil
}

func (p *platform) connect(ctx context.Context) error {
	var info struct {
		BaseURL string `json:"base_url"`
		APIKey  string `json:"api_key"`
	}
	err := eventually(ctx, "the server is ready", func() (bool, error) {
		raw, err := os.ReadFile(filepath.Join(p.server.dir, "serve.json"))
		return err == nil && json.Unmarshal(raw, &info) == nil, nil
	})
	if err != nil {
		return err
	}
	p.url, p.client = info.BaseURL, client.New(info.BaseURL, info.APIKey)
	var agent api.Agent
	body := map[string]any{"name": "bench", "model": "rehearsal", "tools": []api.Tool{{Type: api.ToolTypeAgentToolset}}}
	if err := p.client.Do(ctx, http.MethodPost, "v1/agents", body, &agent); err != nil {
		return err
	}
	p.agent = agent.ID
	return nil
}

func (p *platform) close() { p.server.end() }

// eventually polls until the condition holds.
func eventually(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		held, err := holds()
		if held || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never happened: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// environment makes an environment and a key for its workers.
func (p *platform) environment(ctx context.Context, name string) (id, key string, err error) {
	var e api.Environment
	body := map[string]any{"name": name, "config": map[string]string{"type": api.EnvironmentSelfHosted}}
	if err := p.client.Do(ctx, http.MethodPost, "v1/environments", body, &e); err != nil {
		return "", "", err
	}
	made, err := p.client.CreateKey(ctx, e.ID, client.KeyParams{Name: name})
	return e.ID, made.Key, err
}

// session makes a session; one with a message begins at once.
func (p *platform) session(ctx context.Context, environmentID, message string) (string, error) {
	body := map[string]any{"agent": p.agent, "environment_id": environmentID}
	if message != "" {
		body["initial_events"] = []any{userMessage(message)}
	}
	var s api.Session
	err := p.client.Do(ctx, http.MethodPost, "v1/sessions", body, &s)
	return s.ID, err
}

func userMessage(text string) any {
	return map[string]any{"type": api.EventUserMessage, "content": []any{map[string]any{"type": "text", "text": text}}}
}

func (p *platform) say(ctx context.Context, sessionID, text string) error {
	return p.client.Do(ctx, http.MethodPost, "v1/sessions/"+sessionID+"/events", map[string]any{"events": []any{userMessage(text)}}, nil)
}

// turnEnds waits, on the session's stream, until it has nothing more to do.
func (p *platform) turnEnds(ctx context.Context, sessionID string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream := p.client.SDK().Beta.Sessions.Events.StreamEvents(ctx, sessionID, anthropic.BetaSessionEventStreamParams{})
	defer stream.Close()
	// What happened before the stream was open is in the log.
	events, err := p.log(ctx, sessionID)
	if err != nil {
		return err
	}
	if n := len(events); n > 0 && endsTurn(events[n-1]) {
		return nil
	}
	for stream.Next() {
		var e api.Event
		if err := json.Unmarshal([]byte(stream.Current().RawJSON()), &e); err != nil {
			return err
		}
		if endsTurn(e) {
			return nil
		}
	}
	return fmt.Errorf("the stream ended before the turn of %s: %w", sessionID, stream.Err())
}

func endsTurn(e api.Event) bool {
	return e.Type == api.EventSessionStatusIdle && e.StopReason != nil && e.StopReason.Type == api.StopEndTurn
}

// log is every event of a session.
func (p *platform) log(ctx context.Context, sessionID string) ([]api.Event, error) {
	return list[api.Event](ctx, p, "v1/sessions/"+sessionID+"/events")
}

// list is a whole list.
func list[T any](ctx context.Context, p *platform, path string) ([]T, error) {
	var all []T
	for query := "?limit=100"; ; {
		var page api.Page[T]
		if err := p.client.Do(ctx, http.MethodGet, path+query, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Data...)
		if page.NextPage == nil {
			return all, nil
		}
		query = "?limit=100&page=" + *page.NextPage
	}
}
