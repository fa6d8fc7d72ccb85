package server

import (
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/profile"
)

// enrollPath is the page that the URLs given out for profiles lead to.
const enrollPath = "/user_profiles/enroll"

func (s *server) profileRoutes() []route {
	const (
		profiles   = "/v1/user_profiles"
		oneProfile = profiles + "/{user_profile_id}"
	)
	return []route{
		{"POST", profiles, developer, s.createProfile},
		{"GET", profiles, viewer, s.listProfiles},
		{"GET", oneProfile, viewer, s.getProfile},
		{"POST", oneProfile, developer, s.updateProfile},
		{"DELETE", oneProfile, developer, s.deleteProfile},
		{"POST", oneProfile + "/enrollment_url", developer, s.enrollmentURL},
		{"POST", oneProfile + "/action_urls", developer, s.actionURL},
		// Ours, and no part of the API: whoever has such a URL may see it.
		{"GET", enrollPath, public, s.enrollPage},
	}
}

// profileVersion is the shape of profiles that a request asks for.
func (r *request) profileVersion() api.ProfileVersion {
	asked := strings.Join(r.Header.Values("anthropic-beta"), ",")
	for _, v := range []api.ProfileVersion{api.Profiles202603, api.Profiles202608, api.Profiles202609} {
		if strings.Contains(asked, string(v)) {
			return v
		}
	}
	return ""
}

func (s *server) createProfile(r *request) (any, error) {
	var p profile.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	v := r.profileVersion()
	u, err := s.Profiles.Create(r.Context(), r.principal.WorkspaceID, v, p)
	return u.In(v), err
}

func (s *server) listProfiles(r *request) (any, error) {
	q := r.params()
	by, order := q.choice("order_by", "created_at", "name"), q.choice("order", "desc", "asc")
	list := "user_profiles by " + by + " " + order
	after := q.cursor(list)
	query := profile.Query{
		WorkspaceID: r.principal.WorkspaceID, ByName: by == "name", Ascending: order == "asc",
		After: after.ID, AfterName: after.Name, Limit: q.limit(),
	}
	if q.err != nil {
		return nil, q.err
	}
	found, more, err := s.Profiles.List(r.Context(), query)
	if err != nil {
		return nil, err
	}
	// The cursor is made of the profile, and not of the shape it is shown in.
	shown := page(found, more, func(u api.UserProfile) cursor {
		c := cursor{List: list, ID: u.ID}
		if query.ByName {
			c.Name = profile.SortName(u)
		}
		return c
	})
	out := api.Page[any]{Data: []any{}, NextPage: shown.NextPage}
	for _, u := range shown.Data {
		out.Data = append(out.Data, u.In(r.profileVersion()))
	}
	return out, nil
}

func (s *server) profile(r *request) (api.UserProfile, error) {
	return s.Profiles.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("user_profile_id"))
}

func (s *server) getProfile(r *request) (any, error) {
	u, err := s.profile(r)
	return u.In(r.profileVersion()), err
}

func (s *server) updateProfile(r *request) (any, error) {
	var p profile.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	v := r.profileVersion()
	u, err := s.Profiles.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("user_profile_id"), v, p)
	return u.In(v), err
}

func (s *server) deleteProfile(r *request) (any, error) {
	id := r.PathValue("user_profile_id")
	return api.Deleted{ID: id, Type: "user_profile_deleted"}, s.Profiles.Delete(r.Context(), r.principal.WorkspaceID, id)
}

func (s *server) enrollmentURL(r *request) (any, error) { return s.profileURL(r, "enrollment_url") }

func (s *server) actionURL(r *request) (any, error) {
	var p struct {
		Action *struct {
			Type string `json:"type"`
		} `json:"action"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	const enroll = "enroll_end_user"
	switch {
	case p.Action == nil:
		return nil, api.Invalid("action", "is required")
	case p.Action.Type != enroll:
		return nil, api.Invalid("action.type", "must be %s, not %.40q", enroll, p.Action.Type)
	}
	return s.profileURL(r, "user_profile_action_url")
}

// urlLife is how long a URL for a profile works.
const urlLife = 24 * time.Hour

// invitation is what such a URL holds, sealed.
type invitation struct {
	WorkspaceID string    `json:"w"`
	ProfileID   string    `json:"p"`
	Expires     time.Time `json:"e"`
}

// profileURL makes a URL for the entity of a profile. It leads to a page of this
// server, at the address that the request was sent to.
func (s *server) profileURL(r *request, kind string) (any, error) {
	u, err := s.profile(r)
	if err != nil {
		return nil, err
	}
	expires := time.Now().Add(urlLife).UTC().Truncate(time.Second)
	raw, err := json.Marshal(invitation{r.principal.WorkspaceID, u.ID, expires})
	if err != nil {
		return nil, err
	}
	to := url.URL{Scheme: "http", Host: r.Host, Path: enrollPath}
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		to.Scheme = "https"
	}
	to.RawQuery = url.Values{"token": {s.Sealer.Seal(enrollPath, string(raw))}}.Encode()
	return api.ProfileURL{Type: kind, URL: to.String(), ExpiresAt: expires}, nil
}

var enrollment = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Nothing to enroll in</title></head>
<body><h1>Nothing to enroll in</h1>
<p>You were sent here to enroll in a program{{with .}} as {{.}}{{end}}. This server has no such programs: there is nothing for you to fill in, and nothing has changed.</p>
<p>You can close this page.</p></body></html>
`))

// enrollPage tells whoever was given a URL that there is nothing for them to do.
func (s *server) enrollPage(r *request) (any, error) {
	values, err := r.values()
	if err != nil {
		return nil, err
	}
	gone := &api.Error{Status: http.StatusNotFound, Type: api.ErrNotFound, Message: "token: the URL is not one of this server's, or works no longer"}
	raw, err := s.Sealer.Open(r.Context(), enrollPath, values.Get("token"))
	var to invitation
	if err != nil || json.Unmarshal([]byte(raw), &to) != nil || time.Now().After(to.Expires) {
		return nil, gone
	}
	u, err := s.Profiles.Get(r.Context(), to.WorkspaceID, to.ProfileID)
	if err != nil {
		return nil, err
	}
	name := ""
	if u.Name != nil {
		name = *u.Name
	}
	h := r.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	r.w.WriteHeader(http.StatusOK)
	_ = enrollment.Execute(r.w, name) // the client may be gone
	return written, nil
}
