package server

import (
	"fmt"
	"slices"

	"hearth/api"
	"hearth/internal/brain/session"
)

// maxThreads is the largest page of threads, which is also the default.
const maxThreads = 1000

func (s *server) listThreads(r *request) (any, error) {
	q := r.params()
	f := session.ThreadFilter{
		WorkspaceID: r.principal.WorkspaceID, SessionID: r.PathValue("session_id"), After: -1,
		Limit: int(q.number("limit", 1, maxThreads, maxThreads)),
	}
	for _, status := range q.list("statuses") {
		if !slices.Contains(statuses, status) {
			q.fail("statuses[]", "%.40q is not one of %v", status, statuses)
		}
		f.Statuses = append(f.Statuses, api.SessionStatus(status))
	}
	list := "threads " + f.SessionID
	if c := q.cursor(list); c.ID != "" {
		f.After = c.Number
	}
	if q.err != nil {
		return nil, q.err
	}
	threads, last, err := s.Sessions.Threads(r.Context(), f)
	if err != nil {
		return nil, err
	}
	out := api.Page[api.Thread]{Data: append([]api.Thread{}, threads...)}
	if last >= 0 {
		out.NextPage = cursor{List: list, ID: fmt.Sprint(last), Number: last}.encode()
	}
	return out, nil
}

func (s *server) getThread(r *request) (any, error) {
	return s.Sessions.Thread(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"), r.PathValue("thread_id"))
}

func (s *server) archiveThread(r *request) (any, error) {
	return s.Sessions.ArchiveThread(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"), r.PathValue("thread_id"))
}

// logOf is the log of the thread a request names.
func (s *server) logOf(r *request) (string, error) {
	return s.Sessions.LogOf(r.Context(), r.principal.WorkspaceID, r.PathValue("session_id"), r.PathValue("thread_id"))
}

func (s *server) listThreadEvents(r *request) (any, error) {
	q := r.params()
	list := "events of " + r.PathValue("thread_id")
	f := session.EventFilter{Limit: int(q.number("limit", 1, maxEvents, maxEvents)), CursorSeq: q.cursor(list).Number}
	if q.err != nil {
		return nil, q.err
	}
	logID, err := s.logOf(r)
	if err != nil {
		return nil, err
	}
	return s.pageOfEvents(r, logID, list, f)
}

func (s *server) streamThread(r *request) (any, error) {
	logID, err := s.logOf(r)
	if err != nil {
		return nil, err
	}
	return s.streamLog(r, logID)
}
