package session

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"hearth/api"
)

// maxContent bounds the text of one event, in bytes.
const maxContent = 8 << 20

// checkContent refuses blocks that no model takes, and takes out of the others what
// is not theirs. A block is sent to the model with every request of its session from
// then on: one that the model refuses would be the end of the session.
func checkContent(path string, content []api.Block, allowed []string) error {
	total := 0
	for i := range content {
		at := fmt.Sprintf("%s.content[%d]", path, i)
		if !slices.Contains(allowed, content[i].Type) {
			return api.Invalid(at+".type", "%.80q is not one of %s", content[i].Type, strings.Join(allowed, ", "))
		}
		b, err := checkBlock(at, content[i])
		if err != nil {
			return err
		}
		content[i] = b
		total += len(b.Text) + len(b.Source) + len(b.Content)
	}
	if total > maxContent {
		return api.Invalid(path+".content", "holds %d bytes, at most %d are allowed", total, maxContent)
	}
	return nil
}

func checkBlock(at string, b api.Block) (api.Block, error) {
	switch b.Type {
	case "text":
		if b.Text == "" {
			return b, api.Invalid(at+".text", "must not be empty")
		}
		return api.TextBlock(b.Text), nil
	case "image":
		source, err := checkSource(at+".source", b.Source, "base64", "url", "file")
		if err == nil {
			err = source.checkType(at+".source", shown[b.Type]...)
		}
		return api.Block{Type: b.Type, Source: source.alone()}, err
	case "document":
		source, err := checkSource(at+".source", b.Source, "base64", "text", "url", "file")
		if err == nil {
			err = source.checkType(at+".source", "application/pdf")
		}
		for field, raw := range map[string]json.RawMessage{"title": b.Title, "context": b.Context} {
			var text *string
			if len(raw) > 0 && err == nil && json.Unmarshal(raw, &text) != nil {
				err = api.Invalid(at+"."+field, "must be a string")
			}
		}
		return api.Block{Type: b.Type, Source: source.alone(), Title: b.Title, Context: b.Context, Citations: b.Citations}, err
	}
	return api.Block{Type: b.Type, Source: b.Source, Title: b.Title, Citations: b.Citations, Content: b.Content}, checkFound(at, b)
}

// source is where an image or a document is.
type source struct {
	Type      string `json:"type"`
	MediaType string `json:"media_type,omitempty"`
	Data      string `json:"data,omitempty"`
	URL       string `json:"url,omitempty"`
	FileID    string `json:"file_id,omitempty"`
}

func checkSource(path string, raw json.RawMessage, allowed ...string) (source, error) {
	var s source
	if len(raw) == 0 {
		return s, api.Invalid(path, "is required")
	}
	if err := decode(path, raw, &s); err != nil {
		return s, err
	}
	switch {
	case !slices.Contains(allowed, s.Type):
		return s, api.Invalid(path+".type", "%.80q is not one of %s", s.Type, strings.Join(allowed, ", "))
	case s.Type == "base64" && (s.Data == "" || s.MediaType == ""):
		return s, api.Invalid(path, "a base64 source needs data and media_type")
	case s.Type == "url" && !strings.HasPrefix(s.URL, "https://"):
		return s, api.Invalid(path+".url", "must be an https:// address")
	case s.Type == "text" && s.Data == "":
		return s, api.Invalid(path+".data", "is required")
	case s.Type == "text" && s.MediaType != "text/plain":
		return s, api.Invalid(path+".media_type", "must be text/plain, not %.80q", s.MediaType)
	case s.Type == "file" && s.FileID == "":
		return s, api.Invalid(path+".file_id", "is required")
	case s.Type != "base64":
		return s, nil
	}
	if _, err := base64.StdEncoding.DecodeString(s.Data); err != nil {
		return s, api.Invalid(path+".data", "is not base64: %v", err)
	}
	return s, nil
}

// alone is the source with the fields of its type only.
func (s source) alone() json.RawMessage {
	switch s.Type {
	case "base64", "text":
		s.URL, s.FileID = "", ""
	case "url":
		s = source{Type: s.Type, URL: s.URL}
	case "file":
		s = source{Type: s.Type, FileID: s.FileID}
	}
	raw, _ := json.Marshal(s) // strings only
	return raw
}

// checkType checks what is sent along; what is elsewhere is not known here.
func (s source) checkType(path string, allowed ...string) error {
	if s.Type == "base64" && !slices.Contains(allowed, s.MediaType) {
		return api.Invalid(path+".media_type", "%.80q is not one of %s", s.MediaType, strings.Join(allowed, ", "))
	}
	return nil
}

// checkFound checks a result of a search.
func checkFound(at string, b api.Block) error {
	for field, raw := range map[string]json.RawMessage{"source": b.Source, "title": b.Title} {
		var text *string
		if len(raw) == 0 || json.Unmarshal(raw, &text) != nil || text == nil {
			return api.Invalid(at+"."+field, "must be a string")
		}
	}
	var parts []struct{ Type, Text string }
	if len(b.Content) == 0 || json.Unmarshal(b.Content, &parts) != nil || len(parts) == 0 {
		return api.Invalid(at+".content", "must be a list of text blocks")
	}
	for i, part := range parts {
		if part.Type != "text" || part.Text == "" {
			return api.Invalid(fmt.Sprintf("%s.content[%d]", at, i), "must be a block of type text that is not empty")
		}
	}
	return nil
}
