package server

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/deployment"
	"hearth/internal/db"
)

var deploymentVerdicts = map[string]verdict{
	"POST /v1/deployments":                         forRole(auth.RoleDeveloper, `{"name":"another","agent":"{agent_id}","environment_id":"{environment_id}","initial_events":[{"type":"user.message","content":[{"type":"text","text":"hello"}]}]}`),
	"GET /v1/deployments":                          forRole(auth.RoleViewer, ""),
	"GET /v1/deployments/{deployment_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/deployments/{deployment_id}":         forRole(auth.RoleDeveloper, `{"name":"renamed"}`),
	"POST /v1/deployments/{deployment_id}/archive": forRole(auth.RoleDeveloper, ""),
	"POST /v1/deployments/{deployment_id}/pause":   forRole(auth.RoleDeveloper, ""),
	"POST /v1/deployments/{deployment_id}/unpause": forRole(auth.RoleDeveloper, ""),
	"POST /v1/deployments/{deployment_id}/run":     forRole(auth.RoleDeveloper, ""),
	"GET /v1/deployment_runs":                      forRole(auth.RoleViewer, ""),
	"GET /v1/deployment_runs/{deployment_run_id}":  forRole(auth.RoleViewer, ""),
}

var deploymentForms = []form{
	{"POST /v1/deployments", `{"name":"n","description":"d","agent":{"type":"agent","id":"{agent_id}","version":1},"environment_id":"{environment_id}","metadata":{"k":"v"},
		"schedule":{"type":"cron","expression":"0 9 * * 1-5","timezone":"Europe/Paris"},"vault_ids":[],"budget":null,
		"resources":[{"type":"file","file_id":"{file_id}"}],
		"initial_events":[{"type":"user.message","content":[{"type":"text","text":"hello"}]},{"type":"system.message","content":[{"type":"text","text":"be brief"}]}]}`, map[string]string{
		"name": "string required max 256", "description": "string null max 2048", "agent": "object string required", "agent.type": "string required choice", "agent.id": "string required",
		"agent.version": "number whole null", "environment_id": "string required", "metadata": "object null", "metadata.k": "string null max 512",
		"schedule": "object null", "schedule.type": "string required choice", "schedule.expression": "string required choice", "schedule.timezone": "string required choice",
		"vault_ids": "array null", "resources": "array null", "resources[0]": "object", "resources[0].type": "string required choice", "resources[0].file_id": "string required",
		"initial_events": "array required", "initial_events[0]": "object", "initial_events[0].type": "string required choice", "initial_events[0].content": "array required",
		"initial_events[1].content": "array required"}},
	{"POST /v1/deployments/{deployment_id}", `{"name":"n","description":"d","agent":"{agent_id}","environment_id":"{environment_id}","metadata":{"k":"v"},
		"schedule":{"type":"cron","expression":"0 9 * * 1-5","timezone":"Europe/Paris"},"vault_ids":[],"resources":[],
		"initial_events":[{"type":"user.message","content":[{"type":"text","text":"hello"}]}]}`, map[string]string{
		"name": "string max 256", "description": "string null max 2048", "agent": "object string", "environment_id": "string",
		"metadata": "object null", "metadata.k": "string null max 512", "schedule": "object null", "schedule.type": "string required choice",
		"schedule.expression": "string required choice", "schedule.timezone": "string required choice", "vault_ids": "array null", "resources": "array null", "initial_events": "array"}},
}

// scheduled is what a brain has for schedules: no server fires them but those
// that a test ticks, and their clock shows what a test sets.
type scheduled struct {
	deployments *deployment.Store
	clock       testClock
}

// testClock shows the time, or what it was set to.
type testClock struct {
	mu sync.Mutex
	at time.Time // guarded by mu
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at
}

func (c *testClock) set(t *testing.T, at string) {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, at)
	must(t, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = parsed
}

func newDeployments(ctx context.Context, cfg Config, clock *testClock) (*deployment.Store, error) {
	return deployment.New(ctx, deployment.Config{
		DB: cfg.DB, Sessions: cfg.Launcher(), Sealer: cfg.Sealer, Log: cfg.Log, Now: clock.now,
		Jitter: func(string, time.Duration) time.Duration { return 3 * time.Second },
	})
}

// tick fires what is due at a time.
func (b *brain) tick(at string) {
	b.t.Helper()
	b.clock.set(b.t, at)
	_, err := b.deployments.Tick(b.ctx)
	must(b.t, err)
}

// addDeployment adds a deployment and a run of it, which fails: there is nothing
// then that would go on while a test looks.
func (s *site) addDeployment() {
	s.t.Helper()
	closed := s.environment()
	d := s.deployment(s.agent.ID, closed.ID, nil)
	ok[api.Environment](s.brain, s.brain.key, "POST", "/v1/environments/"+closed.ID+"/archive", nil)
	run := ok[api.DeploymentRun](s.brain, s.brain.key, "POST", "/v1/deployments/"+d.ID+"/run", nil)
	s.ids["deployment_id"], s.ids["deployment_run_id"] = d.ID, run.ID
}

// deployment makes a deployment that says nothing that needs hands.
func (b *brain) deployment(agentID, environmentID string, more object) api.Deployment {
	b.t.Helper()
	body := object{"name": "nightly", "agent": agentID, "environment_id": environmentID, "initial_events": []object{message("hello")}}
	for k, v := range more {
		body[k] = v
	}
	return ok[api.Deployment](b, b.key, "POST", "/v1/deployments", body)
}

func (b *brain) runs(query string) []api.DeploymentRun {
	b.t.Helper()
	return ok[api.Page[api.DeploymentRun]](b, b.key, "GET", "/v1/deployment_runs"+query, nil).Data
}

func cronAt(expression, zone string) object {
	return object{"type": "cron", "expression": expression, "timezone": zone}
}

func rfc(times []time.Time) (all []string) {
	for _, t := range times {
		all = append(all, t.Format(time.RFC3339))
	}
	return all
}

// TestDeploymentSchedule: each tick has one run, shortly after it; a run starts
// a session that is the deployment's.
func TestDeploymentSchedule(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		r := b.receiver()
		r.listen("deployment.created", "deployment.archived", "deployment_run.started", "deployment_run.succeeded", "deployment_run.failed")
		agent, env := b.agent(), b.environment()
		b.clock.set(t, "2026-03-07T00:00:00Z")
		d := b.deployment(agent.ID, env.ID, object{"schedule": cronAt("30 2 * * *", "America/New_York"), "initial_events": []object{
			message("hello"), {"type": "system.message", "content": []object{{"type": "text", "text": "be brief"}}},
		}})
		// 2:30 does not come on the 8th.
		want := []string{"2026-03-07T07:30:00Z", "2026-03-09T06:30:00Z", "2026-03-10T06:30:00Z", "2026-03-11T06:30:00Z", "2026-03-12T06:30:00Z"}
		if got := rfc(d.Schedule.UpcomingRunsAt); !slices.Equal(got, want) || d.Schedule.LastRunAt != nil {
			t.Errorf("upcoming %v, last %v", got, d.Schedule.LastRunAt)
		}
		b.tick("2026-03-07T07:30:02Z")
		if n := len(b.runs("")); n != 0 {
			t.Errorf("%d runs before the jitter is over", n)
		}
		b.tick("2026-03-07T07:30:03Z")
		b.tick("2026-03-07T07:30:04Z")
		runs := b.runs("?deployment_id=" + d.ID)
		if len(runs) != 1 || runs[0].SessionID == nil || runs[0].Error != nil || runs[0].TriggerContext.Type != api.TriggerSchedule ||
			runs[0].TriggerContext.ScheduledAt.Format(time.RFC3339) != want[0] || runs[0].Agent != d.Agent {
			t.Fatalf("runs: %+v", runs)
		}
		s := ok[api.Session](b, b.key, "GET", "/v1/sessions/"+*runs[0].SessionID, nil)
		if s.DeploymentID == nil || *s.DeploymentID != d.ID || s.Agent.Version != 1 || s.EnvironmentID != env.ID || *s.Title != "nightly" {
			t.Errorf("the session: %+v", s)
		}
		b.session(agent.ID, env.ID)
		list := ok[api.Page[api.Session]](b, b.key, "GET", "/v1/sessions?deployment_id="+d.ID, nil)
		if len(list.Data) != 1 || list.Data[0].ID != s.ID {
			t.Errorf("the deployment's sessions: %+v", list.Data)
		}
		events := ok[api.Page[api.Event]](b, b.key, "GET", "/v1/sessions/"+s.ID+"/events?limit=2", nil).Data
		if len(events) != 2 || events[0].Type != api.EventUserMessage || events[1].Type != api.EventSystemMessage {
			t.Errorf("its first events: %+v", events)
		}
		after := ok[api.Deployment](b, b.key, "GET", "/v1/deployments/"+d.ID, nil)
		if last := after.Schedule.LastRunAt; last == nil || last.Format(time.RFC3339) != "2026-03-07T07:30:03Z" {
			t.Errorf("last run at %v", last)
		}
		if got := rfc(after.Schedule.UpcomingRunsAt); !slices.Equal(got[:4], want[1:]) || len(got) != 5 {
			t.Errorf("upcoming %v", got)
		}
		// No server was up for three ticks, and then one is: the last tick has a run.
		b.tick("2026-03-12T06:00:00Z")
		runs = b.runs("?deployment_id=" + d.ID)
		if len(runs) != 2 || runs[0].TriggerContext.ScheduledAt.Format(time.RFC3339) != want[3] {
			t.Errorf("after three ticks that nobody saw: %+v", runs)
		}
		b.tick("2036-03-12T00:00:00Z")
		if runs = b.runs("?deployment_id=" + d.ID); len(runs) != 3 || runs[0].TriggerContext.ScheduledAt.Format(time.RFC3339) != "2036-03-11T06:30:00Z" {
			t.Errorf("after ten years: %+v", runs[0])
		}
		// The agent ends, and with it what it would be run by.
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+agent.ID+"/archive", nil)
		after = ok[api.Deployment](b, b.key, "GET", "/v1/deployments/"+d.ID, nil)
		if after.ArchivedAt == nil || after.Status != api.DeploymentActive || len(after.Schedule.UpcomingRunsAt) != 0 || after.Schedule.LastRunAt == nil {
			t.Errorf("with its agent archived: %+v", after)
		}
		b.tick("2037-01-01T00:00:00Z")
		if n := len(b.runs("")); n != 3 {
			t.Errorf("%d runs, want 3: an archived deployment has run", n)
		}
		b.eventually("all is told", func() bool {
			return slices.Equal(r.types(), []string{"deployment.archived", "deployment.created", "deployment_run.started", "deployment_run.succeeded"}) && len(r.all()) == 8
		})
	})
}

// TestDeploymentPause: a pause skips ticks and takes manual runs; what is missed
// stays missed.
func TestDeploymentPause(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		b.clock.set(t, "2026-01-01T00:00:00Z")
		d := b.deployment(agent.ID, env.ID, object{"schedule": cronAt("0 * * * *", "UTC")})
		path := "/v1/deployments/" + d.ID
		paused := ok[api.Deployment](b, b.key, "POST", path+"/pause", nil)
		if paused.Status != api.DeploymentPaused || paused.PausedReason == nil || paused.PausedReason.Type != "manual" || len(paused.Schedule.UpcomingRunsAt) != 5 {
			t.Errorf("paused: %+v", paused)
		}
		if again := ok[api.Deployment](b, b.key, "POST", path+"/pause", nil); !again.UpdatedAt.Equal(paused.UpdatedAt) {
			t.Error("a second pause changes something")
		}
		b.tick("2026-01-01T03:30:00Z")
		run := ok[api.DeploymentRun](b, b.key, "POST", path+"/run", nil)
		if run.SessionID == nil || run.TriggerContext.Type != api.TriggerManual || run.TriggerContext.ScheduledAt != nil {
			t.Errorf("a manual run: %+v", run)
		}
		active := ok[api.Deployment](b, b.key, "POST", path+"/unpause", nil)
		if active.Status != api.DeploymentActive || active.PausedReason != nil || active.Schedule.LastRunAt != nil {
			t.Errorf("unpaused: %+v", active)
		}
		b.tick("2026-01-01T03:59:59Z")
		if n := len(b.runs("?trigger_type=schedule")); n != 0 {
			t.Errorf("%d runs of what was missed", n)
		}
		b.tick("2026-01-01T04:00:03Z")
		if n := len(b.runs("?trigger_type=schedule")); n != 1 {
			t.Errorf("%d scheduled runs, want 1", n)
		}
		if manual := b.runs("?trigger_type=manual"); len(manual) != 1 || manual[0].ID != run.ID {
			t.Errorf("manual runs: %+v", manual)
		}
		// A new schedule counts from now, and none at all ends it.
		changed := ok[api.Deployment](b, b.key, "POST", path, object{"schedule": cronAt("15 4 * * *", "UTC")})
		if changed.Schedule.LastRunAt == nil {
			t.Error("a new schedule has forgotten the last run")
		}
		b.tick("2026-01-01T04:15:03Z")
		ok[api.Deployment](b, b.key, "POST", path, object{"schedule": nil})
		b.tick("2026-01-05T00:00:00Z")
		if n := len(b.runs("?trigger_type=schedule")); n != 2 {
			t.Errorf("%d scheduled runs, want 2", n)
		}
		ok[api.Deployment](b, b.key, "POST", path+"/archive", nil)
		for _, refused := range []string{"", "/pause", "/unpause", "/run"} {
			if a := b.do(b.key, "POST", path+refused, object{"name": "x"}); a.status != 400 || !strings.Contains(a.failure().Message, "archived") {
				t.Errorf("%s of an archived deployment: %d %s", refused, a.status, a.body)
			}
		}
		if list := ok[api.Page[api.Deployment]](b, b.key, "GET", "/v1/deployments", nil); len(list.Data) != 0 {
			t.Errorf("listed though archived: %+v", list.Data)
		}
	})
}

// TestDeploymentFailure: what no later run could do better pauses a deployment,
// when its schedule finds out.
func TestDeploymentFailure(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		r := b.receiver()
		r.listen("deployment.paused", "deployment_run.failed")
		agent := b.agent()
		b.clock.set(t, "2026-01-01T00:00:00Z")
		f := b.file("data.csv", "x")
		archived, gone, fileless := b.environment(), b.environment(), b.environment()
		closed := ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores", object{"name": "closed"})
		deleted := ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores", object{"name": "deleted"})
		remembering := func(store api.MemoryStore) api.Deployment {
			return b.deployment(agent.ID, fileless.ID, object{"schedule": cronAt("0 * * * *", "UTC"), "resources": []object{{"type": "memory_store", "memory_store_id": store.ID}}})
		}
		deployments := map[string]api.Deployment{
			"environment_archived_error":       b.deployment(agent.ID, archived.ID, object{"schedule": cronAt("0 * * * *", "UTC")}),
			"environment_not_found_error":      b.deployment(agent.ID, gone.ID, object{"schedule": cronAt("0 * * * *", "UTC")}),
			"file_not_found_error":             b.deployment(agent.ID, fileless.ID, object{"schedule": cronAt("0 * * * *", "UTC"), "resources": []object{{"type": "file", "file_id": f.ID}}}),
			"memory_store_archived_error":      remembering(closed),
			"session_resource_not_found_error": remembering(deleted),
		}
		ok[api.MemoryStore](b, b.key, "POST", "/v1/memory_stores/"+closed.ID+"/archive", nil)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/memory_stores/"+deleted.ID, nil)
		ok[api.Environment](b, b.key, "POST", "/v1/environments/"+archived.ID+"/archive", nil)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/environments/"+gone.ID, nil)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/files/"+f.ID, nil)
		for kind, d := range deployments {
			run := ok[api.DeploymentRun](b, b.key, "POST", "/v1/deployments/"+d.ID+"/run", nil)
			if run.Error == nil || run.Error.Type != kind || run.Error.Message == "" || run.SessionID != nil {
				t.Errorf("a manual run, want %s: %+v", kind, run)
			}
			if d := ok[api.Deployment](b, b.key, "GET", "/v1/deployments/"+d.ID, nil); d.Status != api.DeploymentActive {
				t.Errorf("a manual run has paused it: %+v", d)
			}
		}
		b.tick("2026-01-01T01:00:03Z")
		b.tick("2026-01-01T02:00:03Z")
		for kind, d := range deployments {
			failed := b.runs("?has_error=true&trigger_type=schedule&deployment_id=" + d.ID)
			if len(failed) != 1 || failed[0].Error.Type != kind {
				t.Errorf("scheduled runs, want one with %s: %+v", kind, failed)
			}
			d := ok[api.Deployment](b, b.key, "GET", "/v1/deployments/"+d.ID, nil)
			if d.Status != api.DeploymentPaused || d.PausedReason == nil || d.PausedReason.Type != "error" || d.PausedReason.Error.Type != kind || d.Schedule.LastRunAt == nil {
				t.Errorf("not paused for %s: %+v", kind, d)
			}
		}
		if well := b.runs("?has_error=false"); len(well) != 0 {
			t.Errorf("went well: %+v", well)
		}
		if paused := ok[api.Page[api.Deployment]](b, b.key, "GET", "/v1/deployments?status=paused", nil); len(paused.Data) != len(deployments) {
			t.Errorf("%d are paused, want %d", len(paused.Data), len(deployments))
		}
		b.eventually("all is told", func() bool { return len(r.all()) == 2*len(deployments) })
	})
}

// TestDeploymentSecrets: the token of a repository is shown nowhere, and is the
// session's.
func TestDeploymentSecrets(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		const token = "ghp_a-token-nobody-may-see"
		b.keepSecret(token)
		agent, env := b.agent(), b.environment()
		key := b.envKey(env.ID, nil)
		d := b.deployment(agent.ID, env.ID, object{"resources": []object{{"type": "github_repository", "url": "https://git.example.com/team/tool", "authorization_token": token}}})
		run := ok[api.DeploymentRun](b, b.key, "POST", "/v1/deployments/"+d.ID+"/run", nil)
		for _, path := range []string{"/v1/deployments", "/v1/deployments/" + d.ID, "/v1/deployment_runs", "/v1/sessions/" + *run.SessionID} {
			if a := b.do(b.key, "GET", path, nil); strings.Contains(string(a.body), token) || !strings.Contains(string(a.body), d.ID) {
				t.Errorf("%s: %s", path, a.body)
			}
		}
		list := ok[api.Page[object]](b, b.key, "GET", "/v1/sessions/"+*run.SessionID+"/resources", nil)
		got := b.do(key.Key, "GET", "/v1/sessions/"+*run.SessionID+"/resources/"+list.Data[0]["id"].(string)+"/token", nil)
		if !strings.Contains(string(got.body), token) {
			t.Errorf("the session's worker gets %d %s", got.status, got.body)
		}
		cleared := ok[api.Deployment](b, b.key, "POST", "/v1/deployments/"+d.ID, object{"resources": nil, "description": "", "metadata": object{"a": "b"}})
		if len(cleared.Resources) != 0 || cleared.Description != nil || cleared.Metadata["a"] != "b" {
			t.Errorf("cleared: %+v", cleared)
		}
	})
}

func TestDeploymentsAreChecked(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env, closed := b.agent(), b.environment(), b.environment()
		ok[api.Environment](b, b.key, "POST", "/v1/environments/"+closed.ID+"/archive", nil)
		for field, more := range map[string]object{
			"agent":                  {"agent": object{"type": "agent_with_overrides", "id": agent.ID}},
			"environment_id":         {"environment_id": closed.ID},
			"initial_events[0].type": {"initial_events": []object{{"type": "system.message", "content": []object{{"type": "text", "text": "x"}}}}},
			"initial_events[1].type": {"initial_events": []object{message("x"), {"type": "user.interrupt"}}},
			"initial_events":         {"initial_events": slices.Repeat([]object{message("x")}, 51)},
			"vault_ids":              {"vault_ids": slices.Repeat([]string{"vlt_x"}, 51)},
			"schedule.type":          {"schedule": object{"type": "interval", "expression": "* * * * *", "timezone": "UTC"}},
			"schedule.expression":    {"schedule": cronAt("0 0 30 2 *", "UTC")},
			"schedule.timezone":      {"schedule": cronAt("0 0 1 2 *", "Local")},
		} {
			body := object{"name": "n", "agent": agent.ID, "environment_id": env.ID, "initial_events": []object{message("hello")}}
			for k, v := range more {
				body[k] = v
			}
			if a := b.do(b.key, "POST", "/v1/deployments", body); a.status != 400 || !strings.HasPrefix(a.failure().Message, field) {
				t.Errorf("%s: %d %s", field, a.status, a.body)
			}
		}
		for what, more := range map[string]object{"agent": {"agent": "agent_none"}, "environment": {"environment_id": "env_none"}, "agent version": {"agent": object{"type": "agent", "id": agent.ID, "version": 7}}} {
			body := object{"name": "n", "agent": agent.ID, "environment_id": env.ID, "initial_events": []object{message("hello")}}
			for k, v := range more {
				body[k] = v
			}
			if a := b.do(b.key, "POST", "/v1/deployments", body); a.status != http.StatusNotFound {
				t.Errorf("no such %s: %d %s", what, a.status, a.body)
			}
		}
		// The version is pinned, until an update says the agent anew.
		d := b.deployment(agent.ID, env.ID, nil)
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+agent.ID, object{"name": "renamed"})
		if d = ok[api.Deployment](b, b.key, "POST", "/v1/deployments/"+d.ID, object{"name": "other"}); d.Agent.Version != 1 {
			t.Errorf("pinned to %d, want 1", d.Agent.Version)
		}
		if d = ok[api.Deployment](b, b.key, "POST", "/v1/deployments/"+d.ID, object{"agent": agent.ID}); d.Agent.Version != 2 {
			t.Errorf("pinned to %d, want 2", d.Agent.Version)
		}
	})
}

// flaky fails to start sessions as often as it is told to, before or after it
// has started them, as a server that is killed does.
type flaky struct {
	deployment.Sessions
	mu            sync.Mutex
	before, after int // guarded by mu
}

func (f *flaky) StartDeployed(ctx context.Context, workspaceID string, s deployment.Session) error {
	f.mu.Lock()
	before, after := f.before > 0, f.after > 0
	if before {
		f.before--
	} else if after {
		f.after--
	}
	f.mu.Unlock()
	if before {
		return context.DeadlineExceeded
	}
	if err := f.Sessions.StartDeployed(ctx, workspaceID, s); err != nil || !after {
		return err
	}
	return context.DeadlineExceeded
}

// TestDeploymentServers: of several servers one fires a tick, and a run that one
// has begun and not ended is ended by another, with one session.
func TestDeploymentServers(t *testing.T) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) {
		b := newBrain(t, d)
		agent, env := b.agent(), b.environment()
		b.clock.set(t, "2026-01-01T00:00:00Z")
		var all []api.Deployment
		for range 12 {
			all = append(all, b.deployment(agent.ID, env.ID, object{"schedule": cronAt("0 * * * *", "UTC")}))
		}
		worse := &flaky{Sessions: b.deployments.Sessions, before: 3, after: 3}
		cfg := b.deployments.Config
		cfg.Sessions = worse
		cfg.Log = slog.New(slog.DiscardHandler)
		other, err := deployment.New(b.ctx, cfg)
		must(t, err)
		hour := func(at string) {
			b.clock.set(t, at)
			var ticking sync.WaitGroup
			for _, server := range []*deployment.Store{other, b.deployments, other, b.deployments} {
				ticking.Go(func() {
					if _, err := server.Tick(b.ctx); err != nil {
						t.Error(err)
					}
				})
			}
			ticking.Wait()
		}
		hour("2026-01-01T01:00:03Z")
		for _, later := range []string{"01:02:00", "01:05:00", "01:10:00", "01:20:00"} {
			hour("2026-01-01T" + later + "Z") // what failed is tried again
		}
		if runs := b.runs("?limit=100"); len(runs) != len(all) {
			t.Fatalf("%d runs of %d deployments", len(runs), len(all))
		}
		for _, d := range all {
			runs := b.runs("?deployment_id=" + d.ID)
			sessions := ok[api.Page[api.Session]](b, b.key, "GET", "/v1/sessions?deployment_id="+d.ID, nil).Data
			if len(runs) != 1 || runs[0].Error != nil || len(sessions) != 1 || sessions[0].ID != *runs[0].SessionID {
				t.Errorf("%d runs, %d sessions: %+v", len(runs), len(sessions), runs)
			}
		}
	})
}
