package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/session"
)

// request is a request being answered.
type request struct {
	*http.Request
	whole     io.ReadCloser // the body, without MaxBody as its limit
	w         *statusRecorder
	id        string
	principal auth.Principal // set once authorised
	query     url.Values     // parsed when first asked for
	noted     []any          // for the log, as slog has it
}

// note adds to what the log says of the request.
func (r *request) note(args ...any) { r.noted = append(r.noted, args...) }

// allow lets the body have more bytes than MaxBody.
func (r *request) allow(n int64) { r.Body = http.MaxBytesReader(r.w, r.whole, n) }

// values are the query's parameters.
func (r *request) values() (url.Values, error) {
	if r.query == nil {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return nil, api.BadRequest("the query cannot be parsed: %v", err)
		}
		for key, values := range query {
			for _, v := range values {
				if err := checkText(key, v); err != nil {
					return nil, err
				}
			}
		}
		r.query = query
	}
	return r.query, nil
}

// checkText refuses text that a database could not even look for.
func checkText(name, text string) error {
	if strings.ContainsRune(text, 0) {
		return api.Invalid(name, "must not contain a NUL character")
	}
	if !utf8.ValidString(text) {
		return api.Invalid(name, "is not valid UTF-8")
	}
	return nil
}

// params reads query parameters one after the other and keeps the first error.
type params struct {
	values url.Values
	err    error
}

func (r *request) params() *params {
	values, err := r.values()
	return &params{values, err}
}

func (p *params) fail(name, format string, args ...any) {
	if p.err == nil {
		p.err = api.Invalid(name, format, args...)
	}
}

func (p *params) text(name string) string { return p.values.Get(name) }

// number reads an integer between low and high; fallback when it is absent.
func (p *params) number(name string, low, high, fallback int64) int64 {
	text := p.values.Get(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high || text[0] == '+' {
		p.fail(name, "must be a whole number from %d to %d, not %.40q", low, high, text)
		return fallback
	}
	return n
}

func (p *params) flag(name string) bool {
	switch p.values.Get(name) {
	case "", "false":
	case "true":
		return true
	default:
		p.fail(name, "must be true or false")
	}
	return false
}

// moment reads an RFC 3339 time; zero when it is absent.
func (p *params) moment(name string) time.Time {
	text := p.values.Get(name)
	if text == "" {
		return time.Time{}
	}
	t, err := parseTime(name, text)
	if err != nil && p.err == nil {
		p.err = err
	}
	return t
}

// parseTime reads an RFC 3339 time, in UTC. What is in the year 10000 there
// could be kept, and never be written as RFC 3339 again.
func parseTime(name, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	t = t.UTC()
	if err != nil || t.Year() > 9999 {
		return time.Time{}, api.Invalid(name, "must be an RFC 3339 time such as 2026-01-02T15:04:05Z, not %.60q", text)
	}
	return t, nil
}

// span reads the bounds created_at[gt], [gte], [lt] and [lte].
func (p *params) span(name string) (after, before session.Bound) {
	if t := p.moment(name + "[gt]"); !t.IsZero() {
		after = session.Bound{Time: t}
	}
	if t := p.moment(name + "[gte]"); !t.IsZero() {
		after = session.Bound{Time: t, Inclusive: true}
	}
	if t := p.moment(name + "[lt]"); !t.IsZero() {
		before = session.Bound{Time: t}
	}
	if t := p.moment(name + "[lte]"); !t.IsZero() {
		before = session.Bound{Time: t, Inclusive: true}
	}
	return after, before
}

// maxList bounds a parameter that may be repeated.
const maxList = 100

// list reads name[]=a&name[]=b.
func (p *params) list(name string) []string {
	values := append(slices.Clone(p.values[name+"[]"]), p.values[name]...)
	if len(values) > maxList {
		p.fail(name+"[]", "holds %d values, at most %d are allowed", len(values), maxList)
		return nil
	}
	return values
}

// choice reads one of the values named; the first is the default.
func (p *params) choice(name string, choices ...string) string {
	text := p.values.Get(name)
	if text == "" {
		return choices[0]
	}
	if !slices.Contains(choices, text) {
		p.fail(name, "must be one of %s, not %.40q", strings.Join(choices, ", "), text)
	}
	return text
}

// Paging limits.
const (
	defaultLimit = 20
	maxLimit     = 100
)

// limit reads the size of a page.
func (p *params) limit() int { return p.limitTo(maxLimit) }

// limitTo is limit for lists whose pages may be larger.
func (p *params) limitTo(most int64) int { return int(p.number("limit", 1, most, defaultLimit)) }

// cursor is what a page cursor holds: where its page begins, and what for.
type cursor struct {
	List      string `json:"l"` // which list, and in which order, it belongs to
	ID        string `json:"i,omitempty"`
	Number    int64  `json:"n,omitempty"`
	Name      []byte `json:"k,omitempty"` // in lists that are sorted by it
	Backwards bool   `json:"b,omitempty"`
}

func (c cursor) encode() *string {
	raw, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Errorf("encode a cursor: %w", err)) // strings and numbers always encode
	}
	text := base64.RawURLEncoding.EncodeToString(raw)
	return &text
}

// cursor reads the page parameter, which must be a cursor of the same list.
func (p *params) cursor(list string) cursor {
	var c cursor
	text := p.values.Get("page")
	if text == "" {
		return c
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(raw, &c) != nil || checkText("page", c.ID) != nil {
		p.fail("page", "is not a cursor of this server; leave it out for the first page")
		return cursor{}
	}
	if c.List != list {
		p.fail("page", "is a cursor of another list or order; leave it out for the first page")
		return cursor{}
	}
	return c
}

// page makes a page whose next begins after the object with the cursor given.
func page[T any](objects []T, more bool, next func(last T) cursor) api.Page[T] {
	if objects == nil {
		objects = []T{}
	}
	out := api.Page[T]{Data: objects}
	if more && len(objects) > 0 {
		out.NextPage = next(objects[len(objects)-1]).encode()
	}
	return out
}
