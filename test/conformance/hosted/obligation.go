package hosted

import (
	"fmt"
	"strings"
)

// Obligation names a rule the hosted service's workers keep and the fake holds
// every worker to. [Rules] says each in words.
type Obligation string

// The obligations of a worker.
const (
	KnownCalls     Obligation = "known-calls"
	NoAPIKey       Obligation = "no-api-key"
	KeyPolls       Obligation = "key-polls"
	TokenServes    Obligation = "token-serves"
	Headers        Obligation = "headers"
	WorkerID       Obligation = "worker-id"
	Bodies         Obligation = "bodies"
	PollBlock      Obligation = "poll-block"
	PollBackoff    Obligation = "poll-backoff"
	PollFatal      Obligation = "poll-fatal"
	AckAtOnce      Obligation = "ack-at-once"
	AckOnce        Obligation = "ack-once"
	BeatFirst      Obligation = "beat-first"
	BeatEcho       Obligation = "beat-echo"
	BeatPace       Obligation = "beat-pace"
	LeaseKept      Obligation = "lease-kept"
	SessionFirst   Obligation = "session-first"
	SkillByID      Obligation = "skill-by-id"
	StreamThenList Obligation = "stream-then-list"
	ListToTheEnd   Obligation = "list-to-the-end"
	ListOrder      Obligation = "list-order"
	OneResult      Obligation = "one-result"
	ResultShape    Obligation = "result-shape"
	ResultOwed     Obligation = "result-owed"
	ResultOnce     Obligation = "result-once"
	LostIsLost     Obligation = "lost-is-lost"
	StoppingStops  Obligation = "stopping-stops"
	CutCallsSilent Obligation = "cut-calls-silent"
	ForceStop      Obligation = "force-stop"
	StopLast       Obligation = "stop-last"
	IdleStop       Obligation = "idle-stop"
)

// Rules is the table of all obligations: what each asks of a worker.
func Rules() map[Obligation]string {
	return map[Obligation]string{
		KnownCalls:     "make only the calls, with only the query parameters, that the official worker makes",
		NoAPIKey:       "never send x-api-key: a worker has a bearer credential and nothing else",
		KeyPolls:       "poll and acknowledge with the environment key",
		TokenServes:    "make every other call of an item with its sessions token, or the environment key when its secret holds none",
		Headers:        "send anthropic-version always and the managed-agents beta on every beta call",
		WorkerID:       "say Anthropic-Worker-ID when polling and only then",
		Bodies:         "send no body and no Content-Type where the API takes none, JSON where it takes one",
		PollBlock:      "ask for a block_ms of 1 to 999, or for none",
		PollBackoff:    "wait before polling again after a poll that failed",
		PollFatal:      "stop polling after a 4xx that repeating cannot cure",
		AckAtOnce:      "acknowledge a claimed item before polling again and before anything else is done about it",
		AckOnce:        "acknowledge an item once; again only when the answer was a failure",
		BeatFirst:      "take the lease with NO_HEARTBEAT",
		BeatEcho:       "echo the last_heartbeat of the latest answer byte for byte",
		BeatPace:       "beat no faster than the interval, half the lease's time within 1 to 30 s",
		LeaseKept:      "beat at least once while serving an item, and often enough that its lease never lapses",
		SessionFirst:   "read the session once, before its skills and its events",
		SkillByID:      "ask for the version the agent names, then for the content of the id it resolved to, as application/binary",
		StreamThenList: "have the stream open before listing the history, and list once for every stream",
		ListToTheEnd:   "follow next_page to the end with the same query",
		ListOrder:      "list oldest first, at most 1000 a page",
		OneResult:      "post one event in a request",
		ResultShape:    "post a user.tool_result with tool_use_id, is_error and content whose texts are not empty, and nothing else",
		ResultOwed:     "answer only an open call of the six tools that may run: not held, denied, interrupted, custom, of the server's own tools or of an ended session",
		ResultOnce:     "answer a call once; after a lost answer, again with the very same content",
		LostIsLost:     "do nothing more about an item whose heartbeat met 412, above all not stop it",
		StoppingStops:  "after a heartbeat that says stopping, or grants no extension, only stop the item",
		CutCallsSilent: "post nothing about the calls it cut off because the lease was lost or the item is stopping",
		ForceStop:      `end every item that is still held with {"force":true}, once`,
		StopLast:       "make the stop the last call of an item",
		IdleStop:       "leave a healthy session only when its turn has ended, nothing is owed, and it stayed quiet for the idle time",
	}
}

// Violation is an obligation that a worker broke.
type Violation struct {
	Obligation Obligation
	// Detail says what was wrong this time.
	Detail string
	// Request is the offending request, or empty when a call was missing.
	Request string
}

func (v Violation) String() string {
	text := fmt.Sprintf("%s: %s (a worker must %s)", v.Obligation, v.Detail, Rules()[v.Obligation])
	if v.Request != "" {
		text += "\n  in " + v.Request
	}
	return text
}

// violate records a broken obligation. req is nil when a call was missing.
// Callers hold s.mu.
func (s *Service) violate(req *request, obligation Obligation, format string, args ...any) {
	v := Violation{Obligation: obligation, Detail: fmt.Sprintf(format, args...)}
	if req != nil {
		v.Request = strings.TrimSpace(req.exchange.String())
	}
	if !s.pardoned[obligation] {
		s.violations = append(s.violations, v)
	}
}

// Pardon stops holding an obligation against the worker. It is for a worker
// known to break it, such as a release of the official one.
func (s *Service) Pardon(obligation Obligation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pardoned[obligation] = true
}

// Violations are the obligations broken so far, in the order they were noticed.
func (s *Service) Violations() []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Violation(nil), s.violations...)
}
