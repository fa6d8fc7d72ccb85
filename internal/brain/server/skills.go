package server

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/skill"
)

func (s *server) skillRoutes() []route {
	const (
		skills     = "/v1/skills"
		oneSkill   = skills + "/{skill_id}"
		versions   = oneSkill + "/versions"
		oneVersion = versions + "/{version}"
	)
	return []route{
		{"POST", skills, developer, s.createSkill},
		{"GET", skills, viewer, s.listSkills},
		{"GET", oneSkill, viewer, s.getSkill},
		{"DELETE", oneSkill, developer, s.deleteSkill},
		{"POST", versions, developer, s.createSkillVersion},
		{"GET", versions, viewer, s.listSkillVersions},
		{"GET", oneVersion, viewer | worker | item, s.getSkillVersion},
		{"DELETE", oneVersion, developer, s.deleteSkillVersion},
		{"GET", oneVersion + "/content", viewer | worker | item, s.downloadSkill},
	}
}

// skillForm reads a form with the files of a skill, and with its label where
// there may be one. The caller closes the upload.
func skillForm(form multipartForm, labelled bool) (upload *skill.Upload, label *string, err error) {
	if upload, err = skill.Begin(); err != nil {
		return nil, nil, err
	}
	err = form.each(func(part *multipart.Part) error {
		switch name := part.FormName(); {
		case name == "files[]", name == "files":
			return upload.Add(fileName(part), part)
		case name == "display_name" && labelled && label == nil:
			raw, err := io.ReadAll(io.LimitReader(part, 4<<10)) // and no label is nearly as long
			text := string(raw)
			label = &text
			return err
		case name == "display_name" && labelled:
			return api.Invalid(name, "is given twice")
		default:
			return api.Invalid(name, "is not a field of this form")
		}
	})
	if err != nil {
		upload.Close()
		return nil, nil, err
	}
	return upload, label, nil
}

func (s *server) createSkill(r *request) (any, error) {
	form, err := r.form()
	if err != nil {
		return nil, err
	}
	upload, label, err := skillForm(form, true)
	if err != nil {
		return nil, err
	}
	defer upload.Close()
	return s.Skills.Create(r.Context(), r.principal.WorkspaceID, label, upload)
}

func (s *server) createSkillVersion(r *request) (any, error) {
	form, err := r.form()
	if err != nil {
		return nil, err
	}
	upload, _, err := skillForm(form, false)
	if err != nil {
		return nil, err
	}
	defer upload.Close()
	return s.Skills.AddVersion(r.Context(), r.principal.WorkspaceID, r.PathValue("skill_id"), upload)
}

// maxSkillPage is how many skills or versions a page may have.
const maxSkillPage = 1000

func (s *server) listSkills(r *request) (any, error) {
	q := r.params()
	source := q.choice("source", "", api.SkillSourceCustom, api.SkillSourceAnthropic)
	after, limit := q.cursor("skills").ID, q.limitTo(maxSkillPage)
	if q.err != nil {
		return nil, q.err
	}
	next := func(one api.SkillInfo) cursor { return cursor{List: "skills", ID: one.ID} }
	if source == api.SkillSourceAnthropic { // of which there are none here
		return page(nil, false, next), nil
	}
	skills, more, err := s.Skills.List(r.Context(), r.principal.WorkspaceID, after, limit)
	return page(skills, more, next), err
}

func (s *server) getSkill(r *request) (any, error) {
	return s.Skills.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("skill_id"))
}

func (s *server) deleteSkill(r *request) (any, error) {
	id := r.PathValue("skill_id")
	return api.Deleted{ID: id, Type: "skill_deleted"}, s.Skills.Delete(r.Context(), r.principal.WorkspaceID, id)
}

func (s *server) listSkillVersions(r *request) (any, error) {
	id, q := r.PathValue("skill_id"), r.params()
	list := "versions of " + id
	before, limit := q.cursor(list).Number, q.limitTo(maxSkillPage)
	if q.err != nil {
		return nil, q.err
	}
	versions, more, err := s.Skills.Versions(r.Context(), r.principal.WorkspaceID, id, before, limit)
	if err != nil {
		return nil, err
	}
	out := api.Page[api.SkillVersion]{Data: make([]api.SkillVersion, len(versions))}
	for i, v := range versions {
		out.Data[i] = v.SkillVersion
	}
	if more {
		out.NextPage = cursor{List: list, Number: versions[len(versions)-1].Number}.encode()
	}
	return out, nil
}

// seesSkill checks that a worker with the token of a session asks for a version
// that its session has.
func (s *server) seesSkill(r *request, v api.SkillVersion) error {
	if r.principal.Kind != auth.KindSessionsToken {
		return nil
	}
	session, err := s.Sessions.Get(r.Context(), r.principal.WorkspaceID, r.principal.Token.SessionID)
	if err != nil {
		return err
	}
	has := slices.ContainsFunc(session.Agent.Skills, func(one api.Skill) bool {
		return one.SkillID == v.SkillID && (one.Version == v.ID || one.Version == api.LatestVersion)
	})
	if !has {
		return api.NotFound("skill", v.SkillID)
	}
	return nil
}

func (s *server) getSkillVersion(r *request) (any, error) {
	v, err := s.Skills.Version(r.Context(), r.principal.WorkspaceID, r.PathValue("skill_id"), r.PathValue("version"))
	if err != nil {
		return nil, err
	}
	return v, s.seesSkill(r, v)
}

func (s *server) deleteSkillVersion(r *request) (any, error) {
	id := r.PathValue("version")
	return api.Deleted{ID: id, Type: "skill_version_deleted"}, s.Skills.DeleteVersion(r.Context(), r.principal.WorkspaceID, r.PathValue("skill_id"), id)
}

// downloadSkill answers with a zip archive of the skill's directory.
func (s *server) downloadSkill(r *request) (any, error) {
	v, body, err := s.Skills.Open(r.Context(), r.principal.WorkspaceID, r.PathValue("skill_id"), r.PathValue("version"))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if err := s.seesSkill(r, v); err != nil {
		return nil, err
	}
	h := r.w.Header()
	h.Set("Content-Type", "application/zip")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": v.Name + ".zip"}))
	h.Set("ETag", fmt.Sprintf("%q", v.ID))
	http.ServeContent(r.w, r.Request, "", v.CreatedAt, body)
	return written, nil
}
