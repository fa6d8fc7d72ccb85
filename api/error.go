package api

import (
	"errors"
	"fmt"
	"net/http"
)

// ErrorType is the `error.type` of the error envelope.
type ErrorType string

// The error types clients know.
const (
	ErrInvalidRequest ErrorType = "invalid_request_error"
	ErrAuthentication ErrorType = "authentication_error"
	ErrPermission     ErrorType = "permission_error"
	ErrNotFound       ErrorType = "not_found_error"
	ErrTooLarge       ErrorType = "request_too_large"
	ErrRateLimit      ErrorType = "rate_limit_error"
	ErrTimeout        ErrorType = "timeout_error"
	ErrConflict       ErrorType = "conflict_error"
	ErrOverloaded     ErrorType = "overloaded_error"
	ErrMemoryPath     ErrorType = "memory_path_conflict_error"
	ErrMemoryState    ErrorType = "memory_precondition_failed_error"
	ErrAPI            ErrorType = "api_error"
)

// Error is a failure as a client sees it. Message names the field, what was
// wrong and what would be right; it never holds a secret.
type Error struct {
	// Status is the HTTP status; it is not part of the body.
	Status  int            `json:"-"`
	Type    ErrorType      `json:"type"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
	// ConflictingMemoryID and ConflictingPath are of the memory that is in the way,
	// in an ErrMemoryPath.
	ConflictingMemoryID string `json:"conflicting_memory_id,omitempty"`
	ConflictingPath     string `json:"conflicting_path,omitempty"`
	// NoRetry tells clients, by x-should-retry, that the same request would
	// fail again; set it on a conflict that only another request can resolve.
	NoRetry bool `json:"-"`
	// Missing is the kind of object that was not found, "session" say.
	Missing string `json:"-"`
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Type, e.Message) }

// ErrorEnvelope is the body of every error response.
type ErrorEnvelope struct {
	Type      string `json:"type"` // always "error"
	Error     *Error `json:"error"`
	RequestID string `json:"request_id"`
}

// Invalid is a 400 about one field, named by its path in the request
// ("events[0].content"), with what was wrong and what would be right.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Type: ErrInvalidRequest, Message: field + ": " + fmt.Sprintf(format, args...)}
}

// BadRequest is a 400 about the request as a whole.
func BadRequest(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Type: ErrInvalidRequest, Message: fmt.Sprintf(format, args...)}
}

// NotFound is the 404 for an object of the given kind, "session" say.
func NotFound(kind, id string) *Error {
	return &Error{Status: http.StatusNotFound, Type: ErrNotFound, Message: fmt.Sprintf("%s %q was not found", kind, id), Missing: kind}
}

// Conflict is a 409 that repeating the request cannot resolve. Its type is the
// one the hosted service uses for conflicts.
func Conflict(format string, args ...any) *Error {
	return &Error{Status: http.StatusConflict, Type: ErrInvalidRequest, Message: fmt.Sprintf(format, args...), NoRetry: true}
}

// Unauthenticated is a 401.
func Unauthenticated(format string, args ...any) *Error {
	return &Error{Status: http.StatusUnauthorized, Type: ErrAuthentication, Message: fmt.Sprintf(format, args...)}
}

// Forbidden is a 403.
func Forbidden(format string, args ...any) *Error {
	return &Error{Status: http.StatusForbidden, Type: ErrPermission, Message: fmt.Sprintf(format, args...)}
}

// InField has an API error say which field of the request led to it; others stay as
// they are.
func InField(field string, err error) error {
	var wire *Error
	if errors.As(err, &wire) {
		wire.Message = field + ": " + wire.Message
	}
	return err
}

// WithCode adds details.error_code, by which the typed clients pick an error class.
func (e *Error) WithCode(code string) *Error {
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	e.Details["error_code"] = code
	return e
}
