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

// withFiles puts the content of files into the messages that show them: the model's
// provider does not know the files of this server.
func (l *Loop) withFiles(ctx context.Context, workspaceID string, log []session.LogEvent) ([]session.LogEvent, error) {
	log = slices.Clone(log) // others may hold it too
	for i := range log {
		content := log[i].Event.Content
		for k, block := range content {
			id := block.FileID()
			if id == "" {
				continue
			}
			shown, err := l.show(ctx, workspaceID, id, block)
			if err != nil {
				return nil, err
			}
			content = slices.Clone(content)
			content[k] = shown
			log[i].Event.Content = content
		}
	}
	return log, nil
}

// show is a block with its file's content, or word that the file has gone.
func (l *Loop) show(ctx context.Context, workspaceID, id string, block api.Block) (api.Block, error) {
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
