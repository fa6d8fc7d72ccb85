package hosted

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"time"
)

// Skill is a skill an agent has.
type Skill struct {
	ID      string
	Name    string
	Version string // as the agent names it, "latest" say
	// Content is the archive served for it.
	Content []byte
}

// File is a member of an archive. Link makes it a symbolic link to that target.
type File struct {
	Name string
	Body string
	Link string
}

// ZipOf packs files under one wrapper directory, as the hosted service does.
func ZipOf(wrapper string, files ...File) []byte {
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	for _, file := range files {
		header := &zip.FileHeader{Name: path.Join(wrapper) + "/" + file.Name, Method: zip.Store}
		header.SetMode(0o644)
		body := file.Body
		if file.Link != "" {
			header.SetMode(fs.ModeSymlink | 0o777)
			body = file.Link
		}
		member, err := archive.CreateHeader(header)
		if err != nil {
			panic(err) // a buffer takes everything
		}
		_, _ = member.Write([]byte(body))
	}
	if err := archive.Close(); err != nil {
		panic(err)
	}
	return packed.Bytes()
}

// TarOf packs files as a gzipped tar under one wrapper directory.
func TarOf(wrapper string, files ...File) []byte {
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	archive := tar.NewWriter(compressed)
	for _, file := range files {
		header := &tar.Header{Name: wrapper + "/" + file.Name, Mode: 0o644, Size: int64(len(file.Body)), Typeflag: tar.TypeReg}
		if file.Link != "" {
			header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, file.Link, 0
		}
		if err := archive.WriteHeader(header); err != nil {
			panic(err)
		}
		if file.Link == "" {
			_, _ = archive.Write([]byte(file.Body))
		}
	}
	if archive.Close() != nil || compressed.Close() != nil {
		panic("a buffer takes everything")
	}
	return packed.Bytes()
}

// versionID is the concrete id a skill's version resolves to.
func (skill *Skill) versionID() string { return "skillver_of_" + skill.ID }

// skillVersion answers GET skill version.
func (s *Service) skillVersion(req *request) reply {
	s.checkSessionRead(req)
	skill := req.claim.skill(req.PathValue("skill"))
	if skill == nil || req.PathValue("version") != skill.Version {
		s.violate(req, SkillByID, "the agent has no such skill version")
		return failure(http.StatusNotFound, "not_found_error", "no such skill version", nil)
	}
	req.claim.skills[skill.versionID()] = true
	return reply{status: http.StatusOK, body: map[string]any{
		"id": skill.versionID(), "type": "skill_version", "skill_id": skill.ID, "name": skill.Name,
		"description": "a skill", "created_at": time.Now().UTC(),
	}}
}

// skillContent answers GET skill content.
func (s *Service) skillContent(req *request) reply {
	skill := req.claim.skill(req.PathValue("skill"))
	version := req.PathValue("version")
	switch {
	case skill == nil || version != skill.versionID():
		s.violate(req, SkillByID, "the content was asked for as %q", version)
		return failure(http.StatusNotFound, "not_found_error", "no such skill version", nil)
	case !req.claim.skills[version]:
		s.violate(req, SkillByID, "the content was asked for before the version")
	case req.Header.Get("Accept") != "application/binary":
		s.violate(req, SkillByID, "Accept is %q", req.Header.Get("Accept"))
	}
	return reply{status: http.StatusOK, header: map[string]string{"Content-Type": "application/octet-stream"}, raw: skill.Content}
}

func (c *claim) skill(id string) *Skill {
	i := slices.IndexFunc(c.item.session.skills, func(skill *Skill) bool { return skill.ID == id })
	if i < 0 {
		return nil
	}
	return c.item.session.skills[i]
}
