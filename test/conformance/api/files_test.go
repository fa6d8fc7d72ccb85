package api

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, files := t.Context(), s.SDK.Beta.Files
		upload := func(name, content string) *anthropic.BetaFileMetadata {
			made, err := files.Upload(ctx, anthropic.BetaFileUploadParams{File: anthropic.File(strings.NewReader(content), name, "text/plain"), ExpiresInSeconds: anthropic.Int(3600)})
			must(t, err)
			return made
		}
		made, other := upload("a.txt", "content"), upload("b.txt", "")
		found, err := files.GetMetadata(ctx, made.ID, anthropic.BetaFileGetMetadataParams{})
		if err != nil || found.Filename != "a.txt" || found.SizeBytes != 7 || found.MimeType != "text/plain" {
			t.Errorf("found %s: %v", found.RawJSON(), err)
		}
		body, err := files.Download(ctx, made.ID, anthropic.BetaFileDownloadParams{})
		must(t, err)
		raw, err := io.ReadAll(body.Body)
		must(t, body.Body.Close())
		if err != nil || string(raw) != "content" {
			t.Errorf("downloaded %q: %v", raw, err)
		}
		list := files.ListAutoPaging(ctx, anthropic.BetaFileListParams{Limit: anthropic.Int(1)})
		for _, want := range []string{other.ID, made.ID} {
			if !list.Next() || list.Current().ID != want {
				t.Errorf("listed %s, want %s: %v", list.Current().ID, want, list.Err())
			}
		}
		if gone, err := files.Delete(ctx, made.ID, anthropic.BetaFileDeleteParams{}); err != nil || gone.ID != made.ID {
			t.Errorf("deleted: %v", err)
		}
		var failed *anthropic.Error
		if _, err := files.GetMetadata(ctx, made.ID, anthropic.BetaFileGetMetadataParams{}); !errors.As(err, &failed) || failed.StatusCode != 404 {
			t.Errorf("after its deletion: %v", err)
		}
		s.typeScript("files.mjs")
	})
}
