package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
)

// TestWork goes through the life of a work item with the SDK's plain methods,
// without its worker.
func TestWork(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, g := t.Context(), s.ground()
		asWorker := s.worker(g.key)
		work := asWorker.Beta.Environments.Work
		none, err := work.Poll(ctx, g.environmentID, anthropic.BetaEnvironmentWorkPollParams{AnthropicWorkerID: anthropic.String("w1")})
		if err != nil || none != nil {
			t.Fatalf("polled %+v: %v", none, err)
		}
		session := s.session(g, "$ true")
		item, err := work.Poll(ctx, g.environmentID, anthropic.BetaEnvironmentWorkPollParams{BlockMs: anthropic.Int(999), ReclaimOlderThanMs: anthropic.Int(60_000), AnthropicWorkerID: anthropic.String("w1")})
		must(t, err)
		if item.Data.ID != session.ID || item.State != "queued" || item.Secret == "" {
			t.Fatalf("polled state %s for %s", item.State, item.Data.ID)
		}
		stats, err := s.SDK.Beta.Environments.Work.Stats(ctx, g.environmentID, anthropic.BetaEnvironmentWorkStatsParams{})
		must(t, err)
		if stats.Pending != 1 || stats.Depth != 0 || stats.WorkersPolling != 1 {
			t.Errorf("stats %s", stats.RawJSON())
		}
		if acked, err := work.Ack(ctx, item.ID, anthropic.BetaEnvironmentWorkAckParams{EnvironmentID: g.environmentID}); err != nil || acked.State != "starting" {
			t.Fatalf("acknowledged: %v", err)
		}
		asItem := s.worker(tokenOf(t, item.Secret))
		lease := asItem.Beta.Environments.Work
		beat := func(expected string) (*anthropic.BetaSelfHostedWorkHeartbeatResponse, error) {
			return lease.Heartbeat(ctx, item.ID, anthropic.BetaEnvironmentWorkHeartbeatParams{EnvironmentID: g.environmentID, ExpectedLastHeartbeat: anthropic.String(expected), DesiredTTLSeconds: anthropic.Int(60)})
		}
		first, err := beat(api.NoHeartbeat)
		must(t, err)
		second, err := beat(first.LastHeartbeat)
		if err != nil || !second.LeaseExtended || second.State != "active" {
			t.Errorf("the second heartbeat: %v", err)
		}
		var failed *anthropic.Error
		if _, err := beat("2020-01-01T00:00:00Z"); !errors.As(err, &failed) || failed.StatusCode != http.StatusPreconditionFailed {
			t.Errorf("a heartbeat after one that never was: %v", err)
		}
		marked, err := s.SDK.Beta.Environments.Work.Update(ctx, item.ID, anthropic.BetaEnvironmentWorkUpdateParams{
			EnvironmentID: g.environmentID, BetaSelfHostedWorkUpdateRequest: anthropic.BetaSelfHostedWorkUpdateRequestParam{Metadata: map[string]string{"host": "a"}},
		})
		must(t, err)
		found, err := s.SDK.Beta.Environments.Work.Get(ctx, item.ID, anthropic.BetaEnvironmentWorkGetParams{EnvironmentID: g.environmentID})
		if err != nil || found.Metadata["host"] != "a" || marked.Metadata["host"] != "a" || found.Secret != "" {
			t.Errorf("found %s: %v", found.RawJSON(), err)
		}
		list := work.ListAutoPaging(ctx, g.environmentID, anthropic.BetaEnvironmentWorkListParams{Limit: anthropic.Int(1)})
		if !list.Next() || list.Current().ID != item.ID || list.Next() {
			t.Errorf("listed %s: %v", list.Current().ID, list.Err())
		}
		s.awaitIdle(session.ID)
		stop := anthropic.BetaEnvironmentWorkStopParams{EnvironmentID: g.environmentID}
		if stopping, err := s.SDK.Beta.Environments.Work.Stop(ctx, item.ID, stop); err != nil || stopping.State != "stopping" {
			t.Errorf("asked to stop: %v", err)
		}
		stop.BetaSelfHostedWorkStopRequest.Force = anthropic.Bool(true)
		if stopped, err := lease.Stop(ctx, item.ID, stop); err != nil || stopped.State != "stopped" {
			t.Errorf("stopped: %v", err)
		}
		s.typeScript("work.mjs", s.ground().env()...)
	})
}

// tokenOf takes the sessions token out of an item's secret.
func tokenOf(t *testing.T, secret string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	must(t, err)
	var w api.WorkSecret
	must(t, json.Unmarshal(raw, &w))
	return w.SessionsToken
}
