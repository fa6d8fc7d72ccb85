package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"hearth/api"
)

// maxDepth bounds how deeply a body may nest. What is stored is sent again
// inside pages and requests to models, whose readers have bounds of their own.
const maxDepth = 200

// plain refuses bodies that are compressed, which nothing here unpacks.
func (r *request) plain() error {
	encoding := r.Header.Get("Content-Encoding")
	if encoding == "" || strings.EqualFold(encoding, "identity") {
		return nil
	}
	return &api.Error{Status: http.StatusUnsupportedMediaType, Type: api.ErrInvalidRequest, Message: fmt.Sprintf("the body must be sent as it is, not with the content encoding %.40q", encoding)}
}

// decode reads the body into v. No body at all is an empty object.
func (r *request) decode(v any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return api.BadRequest("the body could not be read to its end")
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil
	}
	if raw[0] != '{' {
		return api.BadRequest("the body must be a JSON object")
	}
	if err := checkBody(raw); err != nil {
		return err
	}
	err = json.Unmarshal(raw, v)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return api.Invalid(orBody(wrong.Field), "must not be a %s", wrong.Value)
	case err != nil:
		return api.BadRequest("the body is not valid: %v", err)
	}
	return nil
}

func orBody(field string) string {
	if field == "" {
		return "body"
	}
	return field
}

// checkBody refuses what parses and yet means different things to different
// readers: bytes that are not UTF-8, keys given twice, NUL characters, halves of
// surrogate pairs, numbers beyond all bounds.
func checkBody(raw []byte) error {
	if !utf8.Valid(raw) {
		return api.BadRequest("the body is not valid UTF-8")
	}
	reader := bodyReader{dec: json.NewDecoder(bytes.NewReader(raw))}
	reader.dec.UseNumber()
	err := reader.value()
	if err == nil {
		if _, end := reader.dec.Token(); end != io.EOF {
			return api.BadRequest("the body has something after its JSON object")
		}
	}
	var wire *api.Error
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wire):
		return err
	case errors.As(err, &syntax):
		return api.BadRequest("the body is not valid JSON: %s at byte %d", syntax, syntax.Offset)
	case err != nil:
		return api.BadRequest("the body is not valid JSON: it ends too early")
	}
	if path, found := findEscaped(raw); found {
		return api.Invalid(orBody(path), "must not contain a NUL character")
	}
	if loose, halves := withoutSurrogates(raw); halves {
		if path, found := findEscaped(loose); found {
			return api.Invalid(orBody(path), "must not contain half of a surrogate pair, which is no character")
		}
	}
	return nil
}

// findEscaped finds a NUL character in a body that parses, where it can only be
// an escape.
func findEscaped(raw []byte) (at string, found bool) {
	if !bytes.Contains(raw, []byte(`\u0000`)) {
		return "", false
	}
	var body any
	if err := json.Unmarshal(raw, &body); err != nil {
		return "", false // its reader will say so
	}
	return findNUL("", body)
}

// withoutSurrogates puts NUL characters in the place of escapes for halves of
// surrogate pairs, and tells whether there were any.
func withoutSurrogates(raw []byte) (out []byte, found bool) {
	for i := 0; i+6 <= len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		first, isFirst := escapeAt(raw, i)
		if !isFirst {
			i++ // what is escaped
			continue
		}
		second, isSecond := escapeAt(raw, i+6)
		switch {
		case !utf16.IsSurrogate(first):
		case isSecond && utf16.DecodeRune(first, second) != utf8.RuneError:
			i += 6
		default:
			if !found {
				out, found = bytes.Clone(raw), true
			}
			copy(out[i:], `\u0000`)
		}
		i += 5
	}
	return out, found
}

// escapeAt reads an escape such as \u00e9.
func escapeAt(raw []byte, i int) (r rune, ok bool) {
	if i+6 > len(raw) || raw[i] != '\\' || raw[i+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[i+2:i+6]), 16, 16)
	return rune(n), err == nil
}

// bodyReader walks a body token by token.
type bodyReader struct {
	dec  *json.Decoder
	path []string // of the value being read
}

func (b *bodyReader) value() error {
	token, err := b.dec.Token()
	if err != nil {
		return err
	}
	if n, isNumber := token.(json.Number); isNumber {
		if _, err := n.Float64(); err != nil {
			return api.Invalid(b.at(), "%.40s is beyond what a number can be", n)
		}
	}
	delim, composite := token.(json.Delim)
	if !composite {
		return nil
	}
	if len(b.path) == maxDepth {
		return api.Invalid(orBody(b.path[0]), "nests more than %d levels deep", maxDepth)
	}
	if delim == '{' {
		err = b.fields()
	} else {
		err = b.elements()
	}
	if err != nil {
		return err
	}
	_, err = b.dec.Token() // what closes it
	return err
}

// at is where the value being read is.
func (b *bodyReader) at() string {
	return orBody(strings.ReplaceAll(strings.Join(b.path, "."), ".[]", "[]"))
}

func (b *bodyReader) fields() error {
	seen := map[string]bool{}
	for b.dec.More() {
		token, err := b.dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // a decoder lets nothing else stand here
		b.path = append(b.path, key)
		if seen[key] {
			return api.Invalid(b.at(), "is given twice")
		}
		seen[key] = true
		if err := b.value(); err != nil {
			return err
		}
		b.path = b.path[:len(b.path)-1]
	}
	return nil
}

func (b *bodyReader) elements() error {
	b.path = append(b.path, "[]")
	for b.dec.More() {
		if err := b.value(); err != nil {
			return err
		}
	}
	b.path = b.path[:len(b.path)-1]
	return nil
}

// findNUL finds a NUL character, which Postgres cannot store in a name or an
// id. The content of a tool result is what some program printed, and is kept as
// it is, in JSON, where a NUL is an escape like any other.
func findNUL(path string, v any) (at string, found bool) {
	switch v := v.(type) {
	case string:
		return path, strings.ContainsRune(v, 0)
	case []any:
		for i, element := range v {
			if at, found := findNUL(fmt.Sprintf("%s[%d]", path, i), element); found {
				return at, true
			}
		}
	case map[string]any:
		isResult := v["type"] == string(api.EventUserToolResult) || v["type"] == string(api.EventUserCustomToolResult)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if strings.ContainsRune(key, 0) {
				return path, true
			}
			if isResult && key == "content" {
				continue
			}
			if at, found := findNUL(strings.TrimPrefix(path+"."+key, "."), v[key]); found {
				return at, true
			}
		}
	}
	return "", false
}
