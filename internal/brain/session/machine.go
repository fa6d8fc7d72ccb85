package session

import (
	"fmt"

	"hearth/api"
)

// cause is why a session changes its status.
type cause string

const (
	// causeInput: there is something to think about.
	causeInput cause = "input"
	// causeWait: the session waits for answers to calls.
	causeWait cause = "wait"
	// causeEnd: the turn is over.
	causeEnd cause = "end"
	// causeRetry: a model request failed and will be tried again.
	causeRetry cause = "retry"
	// causeFatal: the session cannot go on.
	causeFatal cause = "fatal"
	// causeArchive: a client has ended the session.
	causeArchive cause = "archive"
)

// transitions is the state machine of a thread, and of a session, which follows
// its threads: the only place that says which status may follow which. What is
// not here cannot happen.
var transitions = map[api.SessionStatus]map[cause]api.SessionStatus{
	api.SessionIdle: {
		causeInput:   api.SessionRunning,
		causeWait:    api.SessionIdle, // some of the calls were answered, or a turn ended in others
		causeEnd:     api.SessionIdle, // an interrupt while waiting
		causeFatal:   api.SessionTerminated,
		causeArchive: api.SessionTerminated,
	},
	api.SessionRunning: {
		causeWait:  api.SessionIdle,
		causeEnd:   api.SessionIdle,
		causeRetry: api.SessionRescheduling,
		causeFatal: api.SessionTerminated,
	},
	api.SessionRescheduling: {
		causeInput: api.SessionRunning,
		causeWait:  api.SessionIdle, // likewise, while another thread waits for calls
		causeEnd:   api.SessionIdle, // an interrupt while waiting for the next try
		causeFatal: api.SessionTerminated,
	},
	api.SessionTerminated: {},
}

// next is the status that follows, or an error for what must not happen.
func next(from api.SessionStatus, c cause) (api.SessionStatus, error) {
	to, ok := transitions[from][c]
	if !ok {
		return from, fmt.Errorf("one that is %s cannot change by %s", from, c)
	}
	return to, nil
}
