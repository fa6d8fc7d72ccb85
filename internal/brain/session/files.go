package session

import (
	"context"
	"fmt"
	"mime"
	"slices"
	"strings"

	"hearth/api"
)

// Files tells of the files that clients' events refer to; file.Store implements it.
type Files interface {
	Get(ctx context.Context, workspaceID, id string) (api.File, error)
}

// UseFiles tells the store where files are. Without, events that refer to files are
// refused.
func (s *Store) UseFiles(f Files) { s.files = f }

// MaxFile is how large a file may be that an event shows the model, in bytes.
const MaxFile = 20 << 20

// shown are the types of files that a block can show.
var shown = map[string][]string{
	"image":    {"image/jpeg", "image/png", "image/gif", "image/webp"},
	"document": {"application/pdf", "text/"},
}

// shownFile is a file that an event refers to.
type shownFile struct {
	path string // of its id, in the request
	as   string // the type of the block
	id   string
}

// filesOf lists the files that events refer to.
func filesOf(inputs []input) (files []shownFile) {
	for _, in := range inputs {
		for i, block := range contentOf(in.event) {
			if id := block.FileID(); id != "" {
				files = append(files, shownFile{fmt.Sprintf("%s.content[%d].source.file_id", in.path, i), block.Type, id})
			}
		}
	}
	return files
}

// checkFiles checks that files are there, and can be shown.
func (s *Store) checkFiles(ctx context.Context, workspaceID string, files []shownFile) error {
	for _, one := range files {
		if s.files == nil {
			return api.Invalid(one.path, "this server keeps no files")
		}
		f, err := s.files.Get(ctx, workspaceID, one.id)
		if err != nil {
			return api.InField(one.path, err)
		}
		if err := checkShown(one.path, one.as, f); err != nil {
			return err
		}
	}
	return nil
}

func checkShown(path, as string, f api.File) error {
	kind, _, _ := mime.ParseMediaType(f.MIMEType) // what is none matches none below
	if !slices.ContainsFunc(shown[as], func(one string) bool {
		return kind == one || strings.HasSuffix(one, "/") && strings.HasPrefix(kind, one)
	}) {
		return api.Invalid(path, "file %s is of the type %.80s, and a block of type %s shows only %s", f.ID, f.MIMEType, as, strings.Join(shown[as], ", "))
	}
	if f.SizeBytes == 0 {
		return api.Invalid(path, "file %s is empty, so there is nothing to show", f.ID)
	}
	if f.SizeBytes > MaxFile {
		return api.Invalid(path, "file %s has %d bytes, at most %d can be shown to a model; mount it as a resource of the session instead", f.ID, f.SizeBytes, MaxFile)
	}
	return nil
}

func contentOf(e headed) []api.Block {
	switch e := e.(type) {
	case *api.ContentEvent:
		return e.Content
	case *api.ToolResultEvent:
		return e.Content
	case *api.CustomToolResultEvent:
		return e.Content
	}
	return nil
}

func refersToFile(b api.Block) bool { return b.FileID() != "" }
