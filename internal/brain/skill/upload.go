package skill

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"hearth/api"
)

// The limits of a skill.
const (
	// MaxFiles is how many files a skill may have. Workers take no more.
	MaxFiles = 10_000
	// MaxSize is how many bytes a skill's files may have together.
	MaxSize = 128 << 20
	// maxRatio is how many times smaller than its content a file of more than
	// ratioFrom bytes may be in an archive.
	maxRatio  = 100
	ratioFrom = 1 << 20
)

// Upload is a skill on its way in: its files as they were sent, on disk, in a
// file that has no name any more and goes with the process.
type Upload struct {
	spool *os.File
	size  int64
	parts []part
}

// part is one file of the form.
type part struct {
	name       string
	start, end int64 // where it lies in the spool
}

// Begin begins an upload, which the caller closes.
func Begin() (*Upload, error) {
	f, err := os.CreateTemp("", "hearth-skill-")
	if err != nil {
		return nil, fmt.Errorf("keep an upload: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("keep an upload: %w", err), f.Close())
	}
	return &Upload{spool: f}, nil
}

// Close forgets what was sent.
func (u *Upload) Close() { _ = u.spool.Close() } // nothing was to be kept

// Add takes a file: one of the skill, by its path with the skill's directory in
// front, or a zip archive of all of them.
func (u *Upload) Add(name string, body io.Reader) error {
	if len(u.parts) == MaxFiles {
		return api.Invalid(field, "holds more than %d files", MaxFiles)
	}
	n, err := io.Copy(u.spool, io.LimitReader(body, MaxSize-u.size+1))
	if err != nil {
		return err
	}
	if u.size+n > MaxSize {
		return tooLarge()
	}
	u.parts = append(u.parts, part{name, u.size, u.size + n})
	u.size += n
	return nil
}

// field is what errors call the files of a form.
const field = "files"

func tooLarge() error {
	return api.Invalid(field, "hold more than %d bytes together", int64(MaxSize))
}

// entries are the files sent: those of the archive, if that is all there is.
func (u *Upload) entries() ([]entry, error) {
	switch {
	case len(u.parts) == 0:
		return nil, api.Invalid(field, "is required: the files of a skill, each named DIRECTORY/PATH, or a zip archive of them")
	case len(u.parts) == 1 && u.startsWith(0, "PK\x03\x04", "PK\x05\x06"):
		return zipEntries(io.NewSectionReader(u.spool, 0, u.size))
	}
	all := make([]entry, len(u.parts))
	for i, p := range u.parts {
		all[i] = entry{name: p.name, open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(u.spool, p.start, p.end-p.start)), nil
		}}
	}
	return all, nil
}

func (u *Upload) startsWith(at int64, any ...string) bool {
	var start [4]byte
	n, _ := u.spool.ReadAt(start[:], at) // fewer bytes start with none of them
	for _, magic := range any {
		if bytes.HasPrefix(start[:n], []byte(magic)) {
			return true
		}
	}
	return false
}
