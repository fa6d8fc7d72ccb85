package skill

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"hearth/api"
)

// entry is a regular file of a skill.
type entry struct {
	name       string
	executable bool
	open       func() (io.ReadCloser, error)
}

// zipEntries are the files of an archive. Anything in it that is neither a file
// nor a directory makes it none of ours.
func zipEntries(archive *io.SectionReader) ([]entry, error) {
	if err := countMembers(archive); err != nil {
		return nil, err
	}
	reader, err := zip.NewReader(archive, archive.Size())
	if err != nil {
		return nil, api.Invalid(field, "the zip archive cannot be read: %v", err)
	}
	var all []entry
	var size uint64
	for _, f := range reader.File {
		if litter(f.Name) {
			continue
		}
		mode := f.Mode()
		switch {
		case f.Flags&1 != 0:
			return nil, invalidMember(f.Name, "is encrypted")
		case mode.IsDir():
			if err := checkPath(strings.TrimSuffix(f.Name, "/")); err != nil {
				return nil, err
			}
			continue
		case !mode.IsRegular():
			return nil, invalidMember(f.Name, "is neither a file nor a directory (a link, perhaps); put the file itself in its place")
		case f.Method != zip.Store && f.Method != zip.Deflate:
			return nil, invalidMember(f.Name, "is compressed in a way (%d) other than deflate", f.Method)
		case f.UncompressedSize64 > ratioFrom && f.UncompressedSize64/maxRatio > f.CompressedSize64:
			return nil, invalidMember(f.Name, "is compressed more than %d-fold; store it as it is", maxRatio)
		}
		if size += f.UncompressedSize64; f.UncompressedSize64 > MaxSize || size > MaxSize {
			return nil, tooLarge()
		}
		all = append(all, entry{f.Name, mode&0o111 != 0, f.Open})
	}
	return all, nil
}

// memberStart is what each member of an archive begins with in its directory,
// whatever the directory says of their number.
var memberStart = []byte("PK\x01\x02")

// countMembers refuses an archive with so many members that listing them would
// fill the memory. It counts those of archives in it, too.
func countMembers(archive *io.SectionReader) error {
	chunk := make([]byte, 256<<10)
	kept, count := 0, 0
	for at := int64(0); ; {
		n, err := archive.ReadAt(chunk[kept:], at)
		at += int64(n)
		seen := chunk[:kept+n]
		if count += bytes.Count(seen, memberStart); count > 2*MaxFiles { // as many directories
			return api.Invalid(field, "the archive, with those in it, has more than %d members", 2*MaxFiles)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kept = copy(chunk, seen[len(seen)-min(len(seen), len(memberStart)-1):])
	}
}

// litter tells what file managers leave in archives unasked.
func litter(name string) bool {
	return strings.HasPrefix(name, "__MACOSX/") || path.Base(name) == ".DS_Store"
}

func invalidMember(name, format string, args ...any) error {
	return api.Invalid(field, "%.200q %s", name, fmt.Sprintf(format, args...))
}

// The limits of a path in a skill, in bytes and in directories.
const (
	maxPath      = 512
	maxComponent = 255
	maxDepth     = 32
)

// checkPath refuses a path that could mean something else to someone else.
func checkPath(name string) error {
	switch {
	case !utf8.ValidString(name):
		return invalidMember(name, "is a name that is not valid UTF-8")
	case strings.ContainsRune(name, '\\'):
		return invalidMember(name, "has a backslash in its name; directories are separated by /")
	case strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
	}):
		return invalidMember(name, "has an invisible character in its name")
	case path.IsAbs(name):
		return invalidMember(name, "has an absolute name; begin it with the skill's directory")
	case !fs.ValidPath(name) || name == ".":
		return invalidMember(name, `is not a plain path: no part of it may be empty, "." or ".."`)
	case len(name) > maxPath:
		return invalidMember(name, "has a name of %d bytes, at most %d are allowed", len(name), maxPath)
	case strings.Count(name, "/") > maxDepth:
		return invalidMember(name, "is more than %d directories deep", maxDepth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxComponent {
			return invalidMember(name, "has a part of %d bytes in its name, at most %d are allowed", len(part), maxComponent)
		}
	}
	return nil
}

// bundle is a skill's files, in the order of their names, which are without the
// directory around them.
type bundle struct {
	directory string
	files     []entry
}

// bundleOf checks that entries are the files of one directory which every file
// system could hold.
func bundleOf(entries []entry) (b bundle, err error) {
	taken := map[string]string{} // file or directory, as file systems compare them
	for _, e := range entries {
		if err := checkPath(e.name); err != nil {
			return b, err
		}
		top, rest, nested := strings.Cut(e.name, "/")
		switch {
		case !nested:
			return b, invalidMember(e.name, "is not in a directory; all files of a skill must be in one, as in my-skill/SKILL.md")
		case b.directory != "" && top != b.directory:
			return b, api.Invalid(field, "are in several directories, %.100q and %.100q; all files of a skill must be in one", b.directory, top)
		}
		b.directory = top
		b.files = append(b.files, entry{rest, e.executable, e.open})
		if err := claim(taken, rest); err != nil {
			return b, err
		}
	}
	if len(b.files) > MaxFiles {
		return b, api.Invalid(field, "holds %d files, at most %d are allowed", len(b.files), MaxFiles)
	}
	slices.SortFunc(b.files, func(x, y entry) int { return cmp.Compare(x.name, y.name) })
	return b, nil
}

// claim takes the place of a file and of the directories it is in.
func claim(taken map[string]string, name string) error {
	for at := name; at != "."; at = path.Dir(at) {
		key, mine := fold(at), "directory "+at
		if at == name {
			mine = "file " + at
		}
		before, ok := taken[key]
		switch {
		case ok && (at == name || before != mine):
			_, before, _ = strings.Cut(before, " ")
			return invalidMember(name, "and %.200q cannot be in one directory: their names are the same, or differ in case only", before)
		case ok:
			return nil // and what it is in
		}
		taken[key] = mine
	}
	return nil
}

// fold makes equal the names that some file system holds to be equal.
func fold(name string) string {
	return strings.ToLower(strings.ToUpper(norm.NFC.String(name)))
}

// packed is the time of every file in an archive: what is the same skill is the
// same archive.
var packed = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// pack writes the archive that workers download: the files in one directory,
// named as the skill is.
func (b bundle) pack(to io.Writer, name string) error {
	archive := zip.NewWriter(to)
	left := int64(MaxSize)
	for _, e := range b.files {
		header := &zip.FileHeader{Name: name + "/" + e.name, Method: zip.Deflate, Modified: packed}
		header.SetMode(0o644)
		if e.executable {
			header.SetMode(0o755)
		}
		out, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if left, err = e.copy(out, left); err != nil {
			return err
		}
	}
	return archive.Close()
}

// copy copies what the file holds, if that is no more than what is left, and
// returns what is left then.
func (e entry) copy(to io.Writer, left int64) (int64, error) {
	in, err := e.open()
	if err != nil {
		return left, invalidMember(e.name, "cannot be read: %v", err)
	}
	defer in.Close()
	source := &memberReader{Reader: in}
	n, err := io.Copy(to, io.LimitReader(source, left+1))
	switch {
	case source.err != nil:
		return left, invalidMember(e.name, "cannot be read: %v", source.err)
	case err != nil:
		return left, err
	case n > left:
		return left, tooLarge()
	}
	return left - n, nil
}

// memberReader tells an error of the archive from one of where it is copied to.
type memberReader struct {
	io.Reader
	err error
}

func (r *memberReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
