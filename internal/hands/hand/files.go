package hand

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// files are the file tools, confined to a few directories, of which the first
// is the working directory.
type files []home

// home is a directory the tools may work in. Every file is opened through root,
// which no symbolic link leads out of, however it is swapped while the tool runs.
type home struct {
	root *os.Root
	dir  string
	// shown goes before the names of files here when grep names them.
	shown string
}

func openFiles(cfg Config) (files, error) {
	var f files
	for _, dir := range []string{cfg.Workdir, cfg.Beside} {
		if dir == "" {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil && dir == cfg.Beside {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the working directory: %w", err)
		}
		h := home{root: root, dir: dir}
		if dir != cfg.Workdir {
			h.shown = dir + "/"
		}
		f = append(f, h)
	}
	return f, nil
}

func (f files) close() {
	for _, h := range f {
		h.root.Close()
	}
}

func (f files) workdir() home { return f[0] }

// spot is a path of the model's inside a home.
type spot struct {
	home
	name string // relative to the home
}

// maxFile is how many bytes of a file a tool reads.
const maxFile = 256 << 10

// locate finds a path of the model's inside one of the homes, with every
// symbolic link resolved.
func (f files) locate(name string) (spot, error) {
	if name == "" {
		return spot{}, errors.New("a path is required")
	}
	if strings.ContainsRune(name, 0) {
		return spot{}, errors.New("a path cannot contain a NUL character")
	}
	absolute := name
	if !filepath.IsAbs(absolute) {
		absolute = filepath.Join(f.workdir().dir, absolute)
	}
	real, err := resolve(filepath.Clean(absolute))
	if err != nil {
		return spot{}, fmt.Errorf("%s: %w", name, reason(err))
	}
	for _, h := range f {
		dir, err := filepath.EvalSymlinks(h.dir)
		if err != nil {
			return spot{}, err
		}
		inside, err := filepath.Rel(dir, real)
		if err == nil && inside != ".." && !strings.HasPrefix(inside, "../") {
			return spot{h, inside}, nil
		}
	}
	return spot{}, fmt.Errorf("path %q is outside the session's working directory %s", name, f.workdir().dir)
}

// resolve follows the symbolic links of what exists of a clean, absolute path; the
// rest is taken as it stands.
func resolve(name string) (string, error) {
	for exists := name; ; {
		real, err := filepath.EvalSymlinks(exists)
		if err == nil {
			return filepath.Join(real, name[len(exists):]), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		// A link that leads nowhere must not be written through.
		if _, err := os.Lstat(exists); err == nil {
			return "", errors.New("is a symbolic link to something that does not exist")
		}
		exists = exists[:max(strings.LastIndexByte(exists, '/'), 1)]
	}
}

// reason is an error without the operation and the path inside the root, which
// would only confuse.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}

func (f files) read(_ context.Context, input json.RawMessage) (string, error) {
	var in struct {
		FilePath  string `json:"file_path"`
		ViewRange []int  `json:"view_range"`
	}
	if err := decode("read", input, &in); err != nil {
		return "", err
	}
	if len(in.ViewRange) != 0 && len(in.ViewRange) != 2 {
		return "", errors.New("read: view_range must be [first line, last line]")
	}
	data, err := f.load("read", in.FilePath, len(in.ViewRange) == 2)
	if err != nil || len(in.ViewRange) == 0 {
		return string(data), err
	}
	text := string(lines(data, in.ViewRange[0], in.ViewRange[1]))
	if len(text) > maxFile {
		return "", fmt.Errorf("read %s: the lines asked for are %d bytes, exceeds %d-byte limit. Use a smaller view_range", in.FilePath, len(text), maxFile)
	}
	return text, nil
}

// load reads a regular file, of any size when part of it is wanted.
func (f files) load(tool, name string, part bool) ([]byte, error) {
	at, err := f.locate(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tool, err)
	}
	// Non-blocking, or opening a pipe would wait for its other end.
	file, err := at.root.OpenFile(at.name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", tool, name, reason(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", tool, name, reason(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %s: is not a regular file", tool, name)
	}
	limit := int64(maxFile)
	if part {
		limit = maxKept
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s %s: is %d bytes, exceeds %d-byte limit. Use the view_range option, or bash, to see parts of it", tool, name, info.Size(), limit)
	}
	if info.Size() == 0 { // which the kernel's own files say too
		return io.ReadAll(io.LimitReader(file, limit))
	}
	// In one piece of its size: growing one would take several times as much of
	// the sandbox's memory.
	data := make([]byte, info.Size())
	n, err := io.ReadFull(file, data)
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = nil // it has been cut short meanwhile
	}
	return data[:n], err
}

// lines are the lines first to last, counted from 1; a last of 0 or less is the end.
func lines(data []byte, first, last int) []byte {
	first = max(first, 1)
	var out []byte
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if n >= first && (last <= 0 || n <= last) {
			out = append(out, line...)
		}
	}
	return out
}

func (f files) write(_ context.Context, input json.RawMessage) (string, error) {
	var in struct {
		FilePath string  `json:"file_path"`
		Content  *string `json:"content"`
	}
	if err := decode("write", input, &in); err != nil {
		return "", err
	}
	if in.Content == nil {
		return "", errors.New("write: content is required")
	}
	if err := f.store("write", in.FilePath, []byte(*in.Content)); err != nil {
		return "", err
	}
	return fmt.Sprintf("wrote %d bytes to %s", len(*in.Content), in.FilePath), nil
}

// store replaces a file as a whole or not at all.
func (f files) store(tool, name string, data []byte) error {
	at, err := f.locate(name)
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	fail := func(err error) error { return fmt.Errorf("%s %s: %w", tool, name, reason(err)) }
	mode := fs.FileMode(0o644)
	if info, err := at.root.Stat(at.name); err == nil {
		if !info.Mode().IsRegular() {
			return fail(errors.New("is not a regular file"))
		}
		mode = info.Mode().Perm()
	}
	if err := at.root.MkdirAll(path.Dir(at.name), 0o755); err != nil {
		return fail(err)
	}
	temporary := path.Join(path.Dir(at.name), ".hearth-"+rand.Text())
	if err := at.root.WriteFile(temporary, data, mode); err != nil {
		return errors.Join(fail(err), at.root.RemoveAll(temporary))
	}
	if err := errors.Join(at.root.Chmod(temporary, mode), at.root.Rename(temporary, at.name)); err != nil {
		return errors.Join(fail(err), at.root.RemoveAll(temporary))
	}
	return nil
}

func (f files) edit(_ context.Context, input json.RawMessage) (string, error) {
	var in struct {
		FilePath   string `json:"file_path"`
		OldString  string `json:"old_string"`
		NewString  string `json:"new_string"`
		ReplaceAll bool   `json:"replace_all"`
	}
	if err := decode("edit", input, &in); err != nil {
		return "", err
	}
	if in.OldString == "" {
		return "", errors.New("edit: old_string is required")
	}
	data, err := f.load("edit", in.FilePath, false)
	if err != nil {
		return "", err
	}
	n := strings.Count(string(data), in.OldString)
	switch {
	case n == 0:
		return "", fmt.Errorf("edit: old_string not found in %s", in.FilePath)
	case n > 1 && !in.ReplaceAll:
		return "", fmt.Errorf("edit: old_string appears %d times in %s (must be unique)", n, in.FilePath)
	}
	if err := f.store("edit", in.FilePath, []byte(strings.ReplaceAll(string(data), in.OldString, in.NewString))); err != nil {
		return "", err
	}
	return fmt.Sprintf("edited %s (%d replacement(s))", in.FilePath, n), nil
}

// The limits of the tools that search.
const (
	maxMatches  = 200
	maxWalk     = 50_000
	maxSearched = 8 << 20
)

// searchIn resolves the directory or file a search begins at.
func (f files) searchIn(name string) (spot, error) {
	if name == "" {
		name = "."
	}
	return f.locate(name)
}

func (f files) glob(ctx context.Context, input json.RawMessage) (string, error) {
	var in struct{ Pattern, Path string }
	if err := decode("glob", input, &in); err != nil {
		return "", err
	}
	if in.Pattern == "" || path.IsAbs(in.Pattern) || slices.Contains(strings.Split(in.Pattern, "/"), "..") {
		return "", errors.New("glob: pattern must be relative and must not lead upwards")
	}
	if !doublestar.ValidatePattern(in.Pattern) {
		return "", fmt.Errorf("glob: %q is not a valid pattern", in.Pattern)
	}
	start, err := f.searchIn(in.Path)
	if err != nil {
		return "", fmt.Errorf("glob: %w", err)
	}
	type match struct {
		name    string
		changed time.Time
	}
	var matches []match
	complete, err := start.walk(ctx, func(name string, entry fs.DirEntry) error {
		inside, err := filepath.Rel(start.name, name)
		if err != nil || entry.IsDir() || !doublestar.MatchUnvalidated(in.Pattern, inside) {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			matches = append(matches, match{filepath.Join(start.dir, name), info.ModTime()})
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("glob: %w", err)
	}
	slices.SortStableFunc(matches, func(a, b match) int {
		return cmp.Or(b.changed.Compare(a.changed), cmp.Compare(a.name, b.name))
	})
	var out []string
	for _, m := range matches[:min(len(matches), maxMatches)] {
		out = append(out, m.name)
	}
	switch {
	case len(out) == 0:
		out = append(out, "no matches")
	case len(matches) > maxMatches:
		out = append(out, fmt.Sprintf("[the newest %d of %d]", maxMatches, len(matches)))
	}
	if !complete {
		out = append(out, fmt.Sprintf("[not everything was searched: there are more than %d files]", maxWalk))
	}
	return strings.Join(out, "\n"), nil
}

// walk visits what lies below, symbolic links not followed, and tells whether it
// saw all of it.
func (s spot) walk(ctx context.Context, visit func(name string, entry fs.DirEntry) error) (complete bool, err error) {
	seen := 0
	err = fs.WalkDir(s.root.FS(), filepath.ToSlash(s.name), func(name string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return errors.New("stopped before it had finished")
		}
		if err != nil {
			if name == s.name {
				return reason(err)
			}
			return nil // what cannot be read is not searched
		}
		if seen++; seen > maxWalk {
			return fs.SkipAll
		}
		return visit(name, entry)
	})
	return seen <= maxWalk, err
}

// unsearched are directories that grep leaves out.
var unsearched = []string{".git", "node_modules"}

func (f files) grep(ctx context.Context, input json.RawMessage) (string, error) {
	var in struct{ Pattern, Path string }
	if err := decode("grep", input, &in); err != nil {
		return "", err
	}
	if in.Pattern == "" {
		return "", errors.New("grep: pattern is required")
	}
	expression, err := regexp.Compile(in.Pattern)
	if err != nil {
		return "", fmt.Errorf("grep: %q is not a valid regular expression: %w", in.Pattern, err)
	}
	start, err := f.searchIn(in.Path)
	if err != nil {
		return "", fmt.Errorf("grep: %w", err)
	}
	var out strings.Builder
	complete, err := start.walk(ctx, func(name string, entry fs.DirEntry) error {
		switch {
		case entry.IsDir() && slices.Contains(unsearched, entry.Name()) && name != start.name:
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		start.grep(&out, name, expression)
		if out.Len() > maxOutput {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("grep: %w", err)
	}
	text := out.String()
	switch {
	case text == "" && complete:
		return "no matches", nil
	case len(text) > maxOutput:
		return strings.ToValidUTF8(text[:maxOutput], "") + "\n[output truncated]", nil
	case !complete:
		text += fmt.Sprintf("[not everything was searched: there are more than %d files]", maxWalk)
	}
	return strings.TrimSuffix(text, "\n"), nil
}

// grep adds the lines of a text file that match.
func (h home) grep(out *strings.Builder, name string, expression *regexp.Regexp) {
	file, err := h.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSearched+1))
	if err != nil || len(data) > maxSearched || bytes.IndexByte(data[:min(len(data), 8<<10)], 0) >= 0 {
		return
	}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if line = bytes.TrimRight(line, "\r\n"); expression.Match(line) {
			if !utf8.Valid(line) {
				line = []byte(printable(string(line)))
			}
			fmt.Fprintf(out, "%s%s:%d:%s\n", h.shown, name, n, line)
			if out.Len() > maxOutput {
				return
			}
		}
	}
}

// spillDir is where outputs too long to be shown are kept, in the workdir.
const spillDir = ".hearth/outputs"

// spillFile makes a file for a long output, and returns its path.
func (f files) spillFile() (*os.File, string, error) {
	work := f.workdir()
	if err := work.root.MkdirAll(spillDir, 0o755); err != nil {
		return nil, "", err
	}
	name := path.Join(spillDir, time.Now().UTC().Format("20060102T150405.000000000")+".txt")
	file, err := work.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	return file, filepath.Join(work.dir, name), err
}

// spill keeps a long text in a file that tools can read.
func (f files) spill(text string) (string, error) {
	file, path, err := f.spillFile()
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	return path, errors.Join(err, file.Close())
}
