package server

import (
	"context"
	"time"

	"hearth/api"
	"hearth/internal/brain/queue"
)

func (s *server) workRoutes() []route {
	const (
		work    = "/v1/environments/{environment_id}/work"
		oneWork = work + "/{work_id}"
	)
	return []route{
		{"GET", work, viewer | worker, s.listWork},
		{"GET", work + "/poll", worker, s.pollWork},
		{"GET", work + "/stats", viewer | worker, s.workStats},
		{"GET", oneWork, viewer, s.getWork},
		{"POST", oneWork, developer, s.updateWork},
		{"POST", oneWork + "/ack", worker | item, s.ackWork},
		{"POST", oneWork + "/heartbeat", worker | item, s.heartbeat},
		{"POST", oneWork + "/stop", developer | worker | item, s.stopWork},
	}
}

// maxBlock is how long a poll may wait, as the hosted service has it.
const maxBlock = 999

// maxReclaim bounds the reclaim window a poll may ask for, in milliseconds.
const maxReclaim = 3_600_000

func (s *server) pollWork(r *request) (any, error) {
	q := r.params()
	p := queue.PollParams{
		EnvironmentID: r.PathValue("environment_id"), WorkerID: r.Header.Get("Anthropic-Worker-ID"),
		Block:        time.Duration(q.number("block_ms", 1, maxBlock, 0)) * time.Millisecond,
		ReclaimAfter: time.Duration(q.number("reclaim_older_than_ms", 1, maxReclaim, 0)) * time.Millisecond,
	}
	if q.err != nil {
		return nil, q.err
	}
	if err := checkText("Anthropic-Worker-ID", p.WorkerID); err != nil {
		return nil, err
	}
	// A shutdown answers long polls at once.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.Stopping, cancel)()
	w, err := s.Queue.Poll(ctx, p)
	if err != nil {
		return nil, err
	}
	if p.Block > 0 {
		// A key that was revoked during the wait brings its holder nothing: what
		// was claimed with it is not acknowledged, and so offered again soon.
		if _, err := s.Keys.Authenticate(r.Request); err != nil {
			return nil, err
		}
	}
	if w == nil {
		return nil, nil // encoded as null: nothing to do
	}
	return w, nil
}

func (s *server) listWork(r *request) (any, error) {
	q := r.params()
	after, limit := q.cursor("work").ID, q.limit()
	if q.err != nil {
		return nil, q.err
	}
	items, more, err := s.Queue.List(r.Context(), r.PathValue("environment_id"), after, limit)
	return page(items, more, func(w api.Work) cursor { return cursor{List: "work", ID: w.ID} }), err
}

func (s *server) workStats(r *request) (any, error) {
	return s.Queue.Stats(r.Context(), r.PathValue("environment_id"))
}

func (s *server) getWork(r *request) (any, error) {
	return s.Queue.Get(r.Context(), r.PathValue("environment_id"), r.PathValue("work_id"))
}

func (s *server) updateWork(r *request) (any, error) {
	var p struct {
		Metadata map[string]*string `json:"metadata"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	if p.Metadata == nil {
		return nil, api.Invalid("metadata", "is required")
	}
	return s.Queue.UpdateMetadata(r.Context(), r.PathValue("environment_id"), r.PathValue("work_id"), p.Metadata)
}

func (s *server) ackWork(r *request) (any, error) {
	return s.Queue.Ack(r.Context(), r.PathValue("environment_id"), r.PathValue("work_id"))
}

func (s *server) heartbeat(r *request) (any, error) {
	q := r.params()
	p := queue.HeartbeatParams{
		EnvironmentID: r.PathValue("environment_id"), WorkID: r.PathValue("work_id"), Claim: r.principal.Token.Claim,
		DesiredTTL: time.Duration(q.number("desired_ttl_seconds", 1, 86_400, 0)) * time.Second,
	}
	if expected := q.text("expected_last_heartbeat"); expected != "" {
		p.Expected = &expected
	}
	if q.err != nil {
		return nil, q.err
	}
	return s.Queue.Heartbeat(r.Context(), p)
}

func (s *server) stopWork(r *request) (any, error) {
	var p struct {
		Force bool `json:"force"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Queue.Stop(r.Context(), r.PathValue("environment_id"), r.PathValue("work_id"), p.Force)
}
