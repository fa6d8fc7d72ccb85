package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/secrets/localsecrets"

	"hearth/api"
	"hearth/api/openapitest"
	"hearth/internal/brain/agent"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/auth/oidctest"
	"hearth/internal/brain/dream"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/file"
	"hearth/internal/brain/gateway"
	"hearth/internal/brain/loop"
	"hearth/internal/brain/memory"
	"hearth/internal/brain/model/rehearsal"
	"hearth/internal/brain/profile"
	"hearth/internal/brain/queue"
	"hearth/internal/brain/seal"
	"hearth/internal/brain/session"
	"hearth/internal/brain/skill"
	"hearth/internal/brain/tunnel"
	"hearth/internal/brain/vault"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
	"hearth/internal/secret"
	"hearth/test/fakemodel"
)

// brain is a whole brain behind a real listener. Every answer it gives is held
// against the contract, none may be a 5xx, and no secret may be in its log.
type brain struct {
	t        *testing.T
	ctx      context.Context // ends before the test would hang
	url, key string
	http     *http.Client
	sessions *session.Store
	*scheduled
	blobs  *blob.Bucket
	model  *fakemodel.Server // behind the gateway; sessions rehearse
	log    *safeBuffer
	stop   func() // begins a shutdown
	issuer *oidctest.Issuer
	signOn *auth.SignOn
	given  *credentials
}

// credentials are every one given out.
type credentials struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

// as is the same brain, spoken to with another API key.
func (b *brain) as(key string) *brain {
	other := *b
	other.key = key
	return &other
}

// each runs a test on each database.
func each(t *testing.T, test func(t *testing.T, b *brain), adapt ...func(*Config)) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) { test(t, newBrain(t, d, adapt...)) })
}

// migrated has the tables of all packages.
var migrated = dbtest.NewTemplate(func(tb testing.TB, d *db.DB) {
	newStores(tb, tb.Context(), stand{db: d, log: slog.New(slog.DiscardHandler), clock: &testClock{}})
})

// signingKey signs sessions tokens.
const signingKey = "a key that signs only in this test"

// pingInterval keeps streams alive often enough to be waited for.
const pingInterval = 25 * time.Millisecond

// newBrain is wired as the command hearth serve wires it. A token dies with its
// claim, without any grace, and a worker that stays away loses its lease only
// where a test makes it.
func newBrain(t *testing.T, d *db.DB, adapt ...func(*Config)) *brain {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	b := &brain{t: t, ctx: ctx, key: secret.New(secret.PrefixAPIKey), log: &safeBuffer{}, issuer: oidctest.New(t), given: &credentials{}, scheduled: &scheduled{}}
	b.keepSecret(b.key)
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	b.signOn, err = auth.NewSignOn(auth.SignOnConfig{Issuer: b.issuer.URL, Audience: oidctest.Audience, Grants: signOnGrants, Log: log})
	must(t, err)
	b.blobs = memblob.OpenBucket(nil)
	t.Cleanup(func() { must(t, b.blobs.Close()) })
	config := newStores(t, ctx, stand{d, b.blobs, b.signOn, &b.clock, log})
	must(t, config.Keys.EnsureAPIKey(ctx, "test", b.key))
	b.sessions, b.deployments = config.Sessions, config.Deployments
	serving, stop := context.WithCancel(ctx)
	b.model = fakemodel.New()
	t.Cleanup(b.model.Close)
	b.model.Respond(func(*fakemodel.Request) fakemodel.Turn { return fakemodel.Say("hello") })
	b.keepSecret(fakemodel.Key)
	passing, err := gateway.New(gateway.Config{BaseURL: b.model.URL(), APIKey: fakemodel.Key})
	must(t, err)
	config.Gateway, config.PingInterval, config.Stopping = passing, pingInterval, serving
	for _, change := range adapt {
		change(&config)
	}
	srv := httptest.NewServer(New(config))
	thinking := make(chan error, 1)
	go func() {
		thinking <- loop.New(loop.Config{Sessions: config.Sessions, Adapter: rehearsal.New(), Skills: config.Skills.Describe, OpenFile: config.Files.Open, Log: log}).Run(serving)
	}()
	delivering := make(chan error, 1)
	go func() { delivering <- config.Webhooks.Run(serving) }()
	b.url, b.stop = srv.URL, stop
	b.http = &http.Client{Transport: strict{t, openapitest.Transport(t, srv.Client().Transport)}}
	t.Cleanup(func() {
		stop()
		srv.Close()
		if err := <-thinking; err != nil {
			t.Errorf("the loop ended with %v", err)
		}
		if err := <-delivering; err != nil {
			t.Errorf("the webhooks ended with %v", err)
		}
		cancel()
		b.checkLog()
	})
	return b
}

// stand is what stores stand on.
type stand struct {
	db     *db.DB
	blobs  *blob.Bucket
	signOn *auth.SignOn
	clock  *testClock
	log    *slog.Logger
}

// newStores opens every store there is, and makes its tables if they are not there.
func newStores(t testing.TB, ctx context.Context, on stand) Config {
	t.Helper()
	d, log := on.db, on.log
	sessions, err := session.New(ctx, session.Config{DB: d})
	must(t, err)
	q, err := queue.New(ctx, queue.Config{
		DB: d, Log: log, SigningKey: []byte(signingKey), TokenGrace: time.Nanosecond,
		Sessions: sessions,
	})
	must(t, err)
	sessions.UseQueue(q)
	agents, err := agent.New(ctx, d)
	must(t, err)
	environments, err := environment.New(ctx, d)
	must(t, err)
	keys, err := auth.New(ctx, auth.Config{DB: d, Environments: environments, Queue: q, SignOn: on.signOn, Log: log})
	must(t, err)
	files, err := file.New(ctx, file.Config{DB: d, Blobs: on.blobs, SessionExists: sessions.Exists, Log: log})
	must(t, err)
	sessions.UseFiles(files)
	skills, err := skill.New(ctx, skill.Config{DB: d, Blobs: on.blobs, Log: log})
	must(t, err)
	agents.UseSkills(skills)
	sealer, err := seal.New(ctx, d, localsecrets.NewKeeper([32]byte{1}))
	must(t, err)
	memories, err := memory.New(ctx, memory.Config{DB: d, Log: log})
	must(t, err)
	vaults, err := vault.New(ctx, vault.Config{DB: d, Sealer: sealer, Client: calling(t), Log: log})
	must(t, err)
	tunnels, err := tunnel.New(ctx, tunnel.Config{DB: d, Sealer: sealer})
	must(t, err)
	profiles, err := profile.New(ctx, d)
	must(t, err)
	dreams, err := dream.New(ctx, dream.Config{DB: d, Memories: anyMemory{}, Sessions: sessions})
	must(t, err)
	webhooks, err := newWebhooks(ctx, d, sealer, log)
	must(t, err)
	config := Config{
		DB: d, Keys: keys, Agents: agents, Environments: environments, Sessions: sessions, Queue: q, Files: files, Skills: skills, Vaults: vaults, Sealer: sealer,
		Tunnels: tunnels, Profiles: profiles, Dreams: dreams, Memories: memories, Webhooks: webhooks, Log: log,
	}
	config.Deployments, err = newDeployments(ctx, config, on.clock)
	must(t, err)
	tellWebhooks(config)
	return config
}

// strict fails the test for every answer that is not as the contract has it,
// for every 5xx, and for every answer without a request id.
type strict struct {
	t       *testing.T
	checked http.RoundTripper
}

func (s strict) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.checked.RoundTrip(r)
	if err == nil && (response.StatusCode >= 500 || response.Header.Get("request-id") == "") {
		s.t.Errorf("%s %s answered %d, request-id %q", r.Method, r.URL, response.StatusCode, response.Header.Get("request-id"))
	}
	return response, err
}

func (b *brain) checkLog() {
	log := b.log.String()
	for _, s := range b.given.all {
		if strings.Contains(log, s) {
			b.t.Errorf("the log holds the secret %.12s…", s)
		}
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=ERROR") {
			b.t.Errorf("the server logged %s", line)
		}
	}
}

// safeBuffer is a log that is written and read at once.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	what   string // was asked for
	status int
	header http.Header
	body   []byte
}

// failure is the error an answer holds.
func (a answer) failure() api.Error {
	var envelope api.ErrorEnvelope
	if json.Unmarshal(a.body, &envelope) != nil || envelope.Error == nil {
		return api.Error{Message: "no error"}
	}
	return *envelope.Error
}

// do makes one request. A body that is not nil, text or bytes is sent as JSON.
// Of a stream it reads only the head.
func (b *brain) do(credential, method, path string, body any) answer {
	b.t.Helper()
	return b.send(b.request(b.ctx, credential, method, path, body))
}

// send makes a request. It may be called from any goroutine; a request that
// brings no answer has status 0.
func (b *brain) send(r *http.Request) answer {
	b.t.Helper()
	response, err := b.http.Do(r)
	if err != nil {
		b.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		return answer{}
	}
	defer response.Body.Close()
	a := answer{what: r.Method + " " + r.URL.Path, status: response.StatusCode, header: response.Header}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		return a
	}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		b.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	return a
}

func (b *brain) request(ctx context.Context, credential, method, path string, body any) *http.Request {
	b.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	case []byte:
		reader = bytes.NewReader(body)
	default:
		raw, err := json.Marshal(body)
		must(b.t, err)
		reader = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, reader)
	must(b.t, err)
	if strings.HasPrefix(path, "/v1/messages") { // whose provider wants to be told
		r.Header.Set("Content-Type", "application/json")
	}
	switch {
	case credential == b.key:
		r.Header.Set("x-api-key", credential)
	case credential != "":
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	return r
}

// upload posts files as multipart/form-data, each a part named file, or files[]
// if there are several, with its path as the file name.
func (b *brain) upload(credential, path string, files map[string]string) answer {
	b.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for name, content := range files {
		field := "file"
		if len(files) > 1 {
			field = "files[]"
		}
		part, err := form.CreateFormFile(field, name)
		must(b.t, err)
		_, err = io.WriteString(part, content)
		must(b.t, err)
	}
	must(b.t, form.Close())
	r := b.request(b.ctx, credential, "POST", path, body.Bytes())
	r.Header.Set("Content-Type", form.FormDataContentType())
	return b.send(r)
}

// ok makes a request that must succeed and decodes its answer.
func ok[T any](b *brain, credential, method, path string, body any) T {
	b.t.Helper()
	return decode[T](b, b.do(credential, method, path, body))
}

// decode decodes the answer to a request that must have succeeded.
func decode[T any](b *brain, a answer) T {
	b.t.Helper()
	var out T
	if a.status != http.StatusOK {
		b.t.Fatalf("%s: %d %s", a.what, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		b.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	return out
}

// object is a JSON object of a request.
type object = map[string]any

func (b *brain) agent() api.Agent {
	b.t.Helper()
	return ok[api.Agent](b, b.key, "POST", "/v1/agents", object{
		"name": "tester", "model": "test-model", "tools": []object{
			{"type": api.ToolTypeAgentToolset},
			{"type": api.ToolTypeCustom, "name": "ask", "description": "asks", "input_schema": object{"type": "object"}},
		},
	})
}

func (b *brain) environment() api.Environment {
	b.t.Helper()
	return ok[api.Environment](b, b.key, "POST", "/v1/environments", object{
		"name": api.NewID("site"), "config": object{"type": api.EnvironmentSelfHosted},
	})
}

// envKey makes a key for the environment's workers.
func (b *brain) envKey(environmentID string, more object) api.EnvironmentKey {
	b.t.Helper()
	body := object{"name": "worker"}
	for k, v := range more {
		body[k] = v
	}
	k := ok[api.EnvironmentKey](b, b.key, "POST", "/v1/environments/"+environmentID+"/keys", body)
	b.keepSecret(k.Key)
	return k
}

func (b *brain) keepSecret(s string) {
	b.given.mu.Lock()
	defer b.given.mu.Unlock()
	b.given.all = append(b.given.all, s)
}

func message(text string) object {
	return object{"type": "user.message", "content": []object{{"type": "text", "text": text}}}
}

// session makes a session that has been told texts.
func (b *brain) session(agentID, environmentID string, texts ...string) api.Session {
	b.t.Helper()
	events := []object{}
	for _, text := range texts {
		events = append(events, message(text))
	}
	return ok[api.Session](b, b.key, "POST", "/v1/sessions", object{"agent": agentID, "environment_id": environmentID, "initial_events": events})
}

// poll claims the next item; nil when there is none. Query may hold parameters.
func (b *brain) poll(credential, environmentID, query string) *api.Work {
	b.t.Helper()
	return ok[*api.Work](b, credential, "GET", "/v1/environments/"+environmentID+"/work/poll"+query, nil)
}

// token takes the sessions token out of a claimed item.
func (b *brain) token(w *api.Work) string {
	b.t.Helper()
	if w == nil || w.Secret == nil {
		b.t.Fatalf("no work with a secret: %+v", w)
	}
	raw, err := base64.RawURLEncoding.DecodeString(*w.Secret)
	must(b.t, err)
	var s api.WorkSecret
	must(b.t, json.Unmarshal(raw, &s))
	b.keepSecret(s.SessionsToken)
	return s.SessionsToken
}

// claimed polls for work, acknowledges it and takes its lease.
func (b *brain) claimed(key, environmentID string) (w *api.Work, token string) {
	b.t.Helper()
	w = b.poll(key, environmentID, "?block_ms=999")
	token = b.token(w)
	item := "/v1/environments/" + environmentID + "/work/" + w.ID
	ok[api.Work](b, token, "POST", item+"/ack", nil)
	ok[api.Heartbeat](b, token, "POST", item+"/heartbeat?expected_last_heartbeat="+api.NoHeartbeat, nil)
	return w, token
}

// awaitIdle waits until the session is idle, and returns why it is.
func (b *brain) awaitIdle(sessionID string) api.StopReason {
	b.t.Helper()
	sub, err := b.sessions.Subscribe(b.ctx, sessionID, "")
	must(b.t, err)
	defer sub.Close()
	for {
		last, _, err := b.sessions.Events(b.ctx, sessionID, session.EventFilter{Descending: true, Limit: 1})
		must(b.t, err)
		if len(last) == 1 && last[0].Type == api.EventSessionStatusIdle {
			var e api.Event
			must(b.t, json.Unmarshal(last[0].JSON, &e))
			return *e.StopReason
		}
		if _, err := sub.Next(b.ctx); err != nil {
			b.t.Fatalf("session %s does not become idle: %v", sessionID, err)
		}
	}
}

// eventually waits, within the test's time, for what cannot be waited on.
func (b *brain) eventually(what string, happened func() bool) {
	b.t.Helper()
	for !happened() {
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("never happened: %s: %v", what, errors.Unwrap(b.ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}
