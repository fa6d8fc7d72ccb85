package worker

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strings"

	"hearth/api"
	"hearth/internal/hands/sandbox"
)

// The limits of a skill's archive.
const (
	maxSkillArchive = 256 << 20 // bytes as downloaded
	maxSkillSize    = 1 << 30   // bytes unpacked
	maxSkillMembers = 10_000
)

// downloadSkills puts the agent's skills into the working directory. A skill
// that cannot be had is a warning: the session can do without.
func (a *activation) downloadSkills(ctx context.Context, skills []api.Skill) {
	for _, s := range skills {
		if err := a.downloadSkill(ctx, s); err != nil && ctx.Err() == nil {
			a.log.Warn("could not download a skill", "skill", s.SkillID, "version", s.Version, "error", err)
		}
	}
}

// removeSkills takes the skills away again, from a working directory that is not the
// worker's own.
func (a *activation) removeSkills(ctx context.Context) {
	root, err := os.OpenRoot(a.place.work)
	if err != nil {
		return // it has gone itself
	}
	defer root.Close()
	all, err := root.Open(skillsDir)
	if err != nil {
		return // there are none, or not any more
	}
	defer all.Close()
	for _, dir := range a.skills {
		if err := sandbox.RemoveAt(ctx, all, path.Base(dir)); err != nil {
			a.log.Warn("could not remove a skill from the working directory", "dir", dir, "error", err)
		}
	}
	if len(a.skills) > 0 {
		_ = root.Remove(skillsDir) // unless there is something else in it
	}
}

// skillsDir is where skills are, in the working directory.
const skillsDir = "skills"

func (a *activation) downloadSkill(ctx context.Context, s api.Skill) error {
	versions := "/v1/skills/" + url.PathEscape(s.SkillID) + "/versions/"
	var version struct{ ID, Name string }
	if err := a.wire.try(ctx, "GET", versions+url.PathEscape(s.Version), nil, nil, &version); err != nil {
		return err
	}
	response, err := a.wire.open(ctx, "GET", versions+url.PathEscape(version.ID)+"/content", nil, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxSkillArchive+1))
	if err != nil {
		return err
	}
	if len(raw) > maxSkillArchive {
		return fmt.Errorf("the archive has more than %d bytes", maxSkillArchive)
	}
	// The directory belongs to what runs in the sandbox: no link in it may lead
	// this worker elsewhere.
	root, err := os.OpenRoot(a.place.work)
	if err != nil {
		return err
	}
	defer root.Close()
	dir := path.Join(skillsDir, skillName(version.Name, s.SkillID))
	a.skills = append(a.skills, dir)
	if err := empty(ctx, root, dir); err != nil {
		return err
	}
	return unpack(raw, root, dir)
}

// empty makes a name that of an empty directory.
func empty(ctx context.Context, root *os.Root, dir string) error {
	_ = root.Remove(dir) // what is no directory
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return sandbox.Empty(ctx, d)
}

func skillName(name, fallback string) string {
	name = path.Base(strings.TrimSpace(name))
	if name == "" || name == "." || name == ".." || name == "/" {
		return fallback
	}
	return name
}

// member is a regular file of an archive.
type member struct {
	name string
	mode fs.FileMode
	open func() (io.Reader, error)
}

// unpack unpacks a zip or tar archive below dir. Only regular files are taken;
// one directory around everything is left out.
func unpack(raw []byte, root *os.Root, dir string) error {
	list := tarMembers
	if bytes.HasPrefix(raw, []byte("PK\x03\x04")) {
		list = zipMembers
	}
	prefix := ""
	if err := list(raw, commonPrefix(&prefix)); err != nil {
		return err
	}
	left := int64(maxSkillSize)
	return list(raw, func(m member) error {
		name := path.Join(dir, strings.TrimPrefix(m.name, prefix))
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if m.mode&0o111 != 0 {
			mode = 0o755
		}
		in, err := m.open()
		if err != nil {
			return err
		}
		out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		n, err := io.Copy(out, io.LimitReader(in, left+1))
		if left -= n; left < 0 {
			err = fmt.Errorf("the archive unpacks to more than %d bytes", maxSkillSize)
		}
		return errors.Join(err, out.Close())
	})
}

// commonPrefix finds the one directory that all members are in, if there is one.
func commonPrefix(prefix *string) func(member) error {
	first := true
	return func(m member) error {
		top, _, nested := strings.Cut(m.name, "/")
		switch {
		case !nested, !first && top+"/" != *prefix:
			*prefix = ""
		case first:
			*prefix = top + "/"
		}
		first = false
		return nil
	}
}

// checkName refuses names that lead out of the directory.
func checkName(name string) (string, error) {
	if !fs.ValidPath(strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")) {
		return "", fmt.Errorf("the archive has a member with the name %.200q", name)
	}
	return strings.TrimPrefix(name, "./"), nil
}

var errMembers = fmt.Errorf("the archive has more than %d members", maxSkillMembers)

func zipMembers(raw []byte, visit func(member) error) error {
	archive, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return err
	}
	if len(archive.File) > maxSkillMembers {
		return errMembers
	}
	for _, f := range archive.File {
		name, err := checkName(f.Name)
		if err != nil {
			return err
		}
		if !f.Mode().IsRegular() || strings.HasSuffix(name, "/") {
			continue
		}
		if err := visit(member{name, f.Mode(), func() (io.Reader, error) { return f.Open() }}); err != nil {
			return err
		}
	}
	return nil
}

func tarMembers(raw []byte, visit func(member) error) error {
	var in io.Reader = bytes.NewReader(raw)
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b}):
		unzipped, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		in = unzipped
	case bytes.HasPrefix(raw, []byte("BZh")):
		in = bzip2.NewReader(in)
	}
	archive := tar.NewReader(in)
	for n := 0; ; n++ {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == maxSkillMembers {
			return errMembers
		}
		name, err := checkName(header.Name)
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := visit(member{name, header.FileInfo().Mode(), func() (io.Reader, error) { return archive, nil }}); err != nil {
			return err
		}
	}
}
