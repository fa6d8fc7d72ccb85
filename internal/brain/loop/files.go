package loop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"

	"hearth/api"
	"hearth/internal/brain/session"
)

// maxShown is how many bytes of files one request shows: what providers take at most.
const maxShown = 32 << 20

// withFiles puts the content of files into the messages that show them: the model's
// provider does not know the files of this server. The latest come first where not
// all have room.
func (l *Loop) withFiles(ctx context.Context, workspaceID string, log []session.LogEvent) ([]session.LogEvent, error) {
	log = slices.Clone(log) // others may hold it too
	room := int64(maxShown)
	for i := range slices.Backward(log) {
		if !slices.ContainsFunc(log[i].Event.Content, func(b api.Block) bool { return b.FileID() != "" }) {
			continue
		}
		content := slices.Clone(log[i].Event.Content)
		for k, block := range slices.Backward(content) {
			if id := block.FileID(); id != "" {
				var err error
				if content[k], err = l.show(ctx, workspaceID, id, block, &room); err != nil {
					return nil, err
				}
			}
		}
		log[i].Event.Content = content
	}
	return log, nil
}

// show is a block with its file's content, or word of why it is not there.
func (l *Loop) show(ctx context.Context, workspaceID, id string, block api.Block, room *int64) (api.Block, error) {
	gone := api.TextBlock("[file " + id + " was deleted or has expired]")
	if l.OpenFile == nil {
		return gone, nil
	}
	f, body, err := l.OpenFile(ctx, workspaceID, id)
	if wire := (*api.Error)(nil); errors.As(err, &wire) && wire.Missing != "" {
		return gone, nil
	}
	if err != nil {
		return block, err
	}
	defer body.Close()
	if *room -= f.SizeBytes; *room < 0 {
		*room = 0 // none that is older is shown either
		return api.TextBlock("[file " + id + " left out: the files of this conversation have too many bytes to be shown together]"), nil
	}
	raw, err := io.ReadAll(io.LimitReader(body, session.MaxFile))
	if err != nil {
		return block, fmt.Errorf("read file %s: %w", id, err)
	}
	kind, _, _ := mime.ParseMediaType(f.MIMEType) // checked when the event was taken
	source := struct {
		Type      string `json:"type"`
		MediaType string `json:"media_type"`
		Data      any    `json:"data"`
	}{"base64", kind, raw}
	if strings.HasPrefix(kind, "text/") {
		source.Type, source.MediaType, source.Data = "text", "text/plain", strings.ToValidUTF8(string(raw), "\ufffd")
	}
	block.Source, err = json.Marshal(source)
	return block, err
}
