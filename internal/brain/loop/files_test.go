package loop_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"

	"hearth/api"
	"hearth/internal/brain/file"
	"hearth/internal/brain/session"
	"hearth/test/fakemodel"
)

// TestFilesShown: files that messages and results refer to reach the model with their
// content, as long as they are there.
func TestFilesShown(t *testing.T) {
	each(t, func(b *brain) {
		bodies := memblob.OpenBucket(nil)
		b.t.Cleanup(func() { bodies.Close() })
		files, err := file.New(b.ctx, file.Config{DB: b.db, Blobs: bodies, SessionExists: b.sessions.Exists, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.t.Fatal(err)
		}
		b.sessions.UseFiles(files)
		b.cfg.OpenFile = files.Open
		upload := func(workspace, kind string, body []byte) string {
			b.t.Helper()
			u, err := files.Receive(b.ctx, "given", kind, bytes.NewReader(body))
			if err != nil {
				b.t.Fatal(err)
			}
			u.WorkspaceID = workspace
			f, err := u.Keep(b.ctx, 0)
			if err != nil {
				b.t.Fatal(err)
			}
			return f.ID
		}
		const ours = "wrkspc_default"
		picture := []byte("\x89PNG\r\n\x1a\n\x00 a picture")
		png, csv, pdf := upload(ours, "image/PNG", picture), upload(ours, "text/csv; charset=utf-8", []byte("a,b\n\xff")), upload(ours, "application/pdf", []byte("%PDF-1.7"))
		foreign, program, large := upload("wrkspc_other", "image/png", picture), upload(ours, "application/x-elf", picture), upload(ours, "text/plain", bytes.Repeat([]byte("x"), session.MaxFile+1))
		block := func(kind, id string) map[string]any {
			return map[string]any{"type": kind, "source": map[string]any{"type": "file", "file_id": id}}
		}
		show := func(blocks ...map[string]any) map[string]any {
			return map[string]any{"type": "user.message", "content": blocks}
		}

		b.model.Play(fakemodel.Say("Seen."), fakemodel.Call("ask", map[string]any{}), fakemodel.Say("Seen again."), fakemodel.Say("Gone."), fakemodel.Say("Full."))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow), api.Tool{Type: api.ToolTypeCustom, Name: "ask", Description: "asks", InputSchema: json.RawMessage(`{"type":"object"}`)})
		for what, refused := range map[string]struct {
			event map[string]any
			says  string
		}{
			"of another workspace":  {show(block("image", foreign)), "not found"},
			"that is not there":     {show(block("document", "file_none")), "not found"},
			"without an id":         {show(block("image", "")), "file_id: is required"},
			"that is no picture":    {show(block("image", csv)), "image/png"},
			"that is no document":   {show(block("document", program)), "application/pdf"},
			"that is a picture":     {show(block("document", png)), "application/pdf"},
			"that is empty":         {show(block("document", upload(ours, "text/plain", nil))), "is empty"},
			"that is too large":     {show(block("document", large)), "at most"},
			"after one that is ok":  {show(block("image", png), block("image", foreign)), "content[1].source.file_id: "},
			"in a system's message": {map[string]any{"type": "system.message", "content": []map[string]any{block("image", png)}}, "text"},
		} {
			if _, err := c.trySend(refused.event); err == nil || !strings.Contains(err.Error(), refused.says) || !strings.Contains(err.Error(), "events[0]") {
				b.t.Errorf("a file %s: %v", what, err)
			}
		}

		c.send(show(block("image", png), block("document", csv), block("document", pdf)))
		c.wantStop(api.StopEndTurn)
		sent := string(b.request().Body)
		for _, want := range []string{
			`{"type":"base64","media_type":"image/png","data":"` + base64.StdEncoding.EncodeToString(picture) + `"}`,
			`{"type":"text","media_type":"text/plain","data":"a,b\n` + "\ufffd" + `"}`,
			`{"type":"base64","media_type":"application/pdf","data":"` + base64.StdEncoding.EncodeToString([]byte("%PDF-1.7")) + `"}`,
		} {
			if !strings.Contains(sent, want) {
				b.t.Errorf("the model was not shown %s in %s", want, sent)
			}
		}
		if stored := c.of(api.EventUserMessage)[0]; stored.Content[0].FileID() != png {
			b.t.Errorf("the log holds %+v", stored.Content)
		}

		c.send(message("ask"))
		call := c.wantStop(api.StopRequiresAction).EventIDs[0]
		b.request()
		answer := map[string]any{"type": "user.custom_tool_result", "custom_tool_use_id": call, "content": []map[string]any{block("image", png)}}
		raw, _ := json.Marshal(answer)
		var wire *api.Error
		if _, err := b.sessions.Send(b.ctx, c.id, session.SenderWorker, []json.RawMessage{raw}); !errors.As(err, &wire) || wire.Status != 403 {
			b.t.Errorf("a worker shows a file: %v", err)
		}
		c.send(answer)
		c.wantStop(api.StopEndTurn)
		if n := strings.Count(string(b.request().Body), base64.StdEncoding.EncodeToString(picture)); n != 2 {
			b.t.Errorf("the picture was shown %d times, want 2", n)
		}

		if err := files.Delete(b.ctx, ours, png); err != nil {
			b.t.Fatal(err)
		}
		c.send(message("and now?"))
		c.wantStop(api.StopEndTurn)
		sent = string(b.request().Body)
		if strings.Contains(sent, base64.StdEncoding.EncodeToString(picture)) || strings.Count(sent, png+" was deleted") != 2 || !strings.Contains(sent, "application/pdf") {
			b.t.Errorf("after the file was deleted the model was shown %s", sent)
		}

		// Two that have no room together: the later one has.
		first, second := upload(ours, "text/plain", bytes.Repeat([]byte("1"), session.MaxFile)), upload(ours, "text/plain", bytes.Repeat([]byte("2"), session.MaxFile))
		c.send(show(block("document", first), block("document", second)))
		c.wantStop(api.StopEndTurn)
		sent = string(b.request().Body)
		if !strings.Contains(sent, first+" left out") || strings.Contains(sent, second) || !strings.Contains(sent, strings.Repeat("2", 1000)) || strings.Contains(sent, "application/pdf") {
			b.t.Errorf("of two large files the model was shown %d bytes", len(sent))
		}
	})
}
