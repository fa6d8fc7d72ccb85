package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

var profileVerdicts = map[string]verdict{
	"POST /v1/user_profiles":                                  forRole(auth.RoleDeveloper, `{"name":"Ada"}`),
	"GET /v1/user_profiles":                                   forRole(auth.RoleViewer, ""),
	"GET /v1/user_profiles/{user_profile_id}":                 forRole(auth.RoleViewer, ""),
	"POST /v1/user_profiles/{user_profile_id}":                forRole(auth.RoleDeveloper, `{"name":"Grace"}`),
	"DELETE /v1/user_profiles/{user_profile_id}":              forRole(auth.RoleDeveloper, ""),
	"POST /v1/user_profiles/{user_profile_id}/enrollment_url": forRole(auth.RoleDeveloper, ""),
	"POST /v1/user_profiles/{user_profile_id}/action_urls":    forRole(auth.RoleDeveloper, `{"action":{"type":"enroll_end_user"}}`),
	"GET /user_profiles/enroll":                               {apiKey: 404, envKey: 404, othersKey: 404, token: 404, othersToken: 404},
}

var profileForms = []form{
	{"POST /v1/user_profiles", `{"name":"Ada","access_type":"passthrough","metadata":{"k":"v"},"external_user_details":{"account_status":"active","country":"DE",
		"email_hash":"e","entity_type":"business","name_hash":"n","onboarded_at":"2026-01-02T15:04:05Z","reference_id":"r"}}`, map[string]string{
		"name": "string null max 255", "access_type": "string choice", "metadata": "object", "metadata.k": "string max 512", "external_user_details": "object",
		"external_user_details.account_status": "string null choice", "external_user_details.country": "string null choice", "external_user_details.email_hash": "string null max 255",
		"external_user_details.entity_type": "string null choice", "external_user_details.name_hash": "string null max 255",
		"external_user_details.onboarded_at": "string choice", "external_user_details.reference_id": "string null max 255"}},
	{"POST /v1/user_profiles/{user_profile_id}", `{"name":"Ada","access_type":"passthrough","metadata":{"k":"v"},"external_user_details":{"account_status":"active","country":"DE",
		"email_hash":"e","entity_type":"business","name_hash":"n","onboarded_at":"2026-01-02T15:04:05Z","reference_id":"r"}}`, map[string]string{
		"name": "string null max 255", "access_type": "string null choice", "metadata": "object", "metadata.k": "string max 512", "external_user_details": "object",
		"external_user_details.account_status": "string choice", "external_user_details.country": "string choice", "external_user_details.email_hash": "string max 255",
		"external_user_details.entity_type": "string choice", "external_user_details.name_hash": "string max 255",
		"external_user_details.onboarded_at": "string choice", "external_user_details.reference_id": "string max 255"}},
	{"POST /v1/user_profiles/{user_profile_id}/action_urls", `{"action":{"type":"enroll_end_user"}}`, map[string]string{
		"action": "object required", "action.type": "string required choice"}},
}

func (s *site) addProfile() {
	s.t.Helper()
	s.ids["user_profile_id"] = ok[api.UserProfile](s.brain, s.brain.key, "POST", "/v1/user_profiles", object{"name": "Ada"}).ID
}

// inShape makes a request about profiles in the shape of a version.
func (b *brain) inShape(v api.ProfileVersion, method, path string, body any) answer {
	b.t.Helper()
	r := b.request(b.ctx, b.key, method, path, body)
	if v != "" {
		r.Header.Set("anthropic-beta", "files-api-2025-04-14,"+string(v))
	}
	return b.send(r)
}

func TestProfiles(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		made := ok[api.UserProfile](b, b.key, "POST", "/v1/user_profiles", object{
			"name": "Ada", "metadata": object{"team": "risk", "tier": "gold"},
			"external_user_details": object{"country": "GB", "onboarded_at": "2026-01-02T16:04:05+01:00"},
		})
		if *made.Name != "Ada" || made.AccessType != api.AccessApplication || *made.Details.Country != "GB" || made.Details.EntityType != nil ||
			made.Details.OnboardedAt.Format(time.RFC3339) != "2026-01-02T15:04:05Z" {
			t.Errorf("made %+v", made)
		}
		path := "/v1/user_profiles/" + made.ID
		changed := ok[api.UserProfile](b, b.key, "POST", path, object{
			"access_type": "passthrough", "metadata": object{"team": "", "tier": "silver", "region": "eu"}, "external_user_details": object{"entity_type": "non_profit"},
		})
		if changed.AccessType != api.AccessPassthrough || *changed.Details.Country != "GB" || *changed.Details.EntityType != "non_profit" ||
			fmt.Sprint(changed.Metadata) != "map[region:eu tier:silver]" || !changed.UpdatedAt.After(made.UpdatedAt) {
			t.Errorf("changed to %+v", changed)
		}
		if same := ok[api.UserProfile](b, b.key, "POST", path, object{"metadata": object{"tier": "silver"}}); !same.UpdatedAt.Equal(changed.UpdatedAt) {
			t.Error("an update that changes nothing is an update")
		}
		if gone := ok[api.Deleted](b, b.key, "DELETE", path, nil); gone != (api.Deleted{ID: made.ID, Type: "user_profile_deleted"}) {
			t.Errorf("deleted: %+v", gone)
		}
		for _, method := range []string{"GET", "POST", "DELETE"} {
			if a := b.do(b.key, method, path, nil); a.status != 404 {
				t.Errorf("%s of a deleted profile: %d %s", method, a.status, a.body)
			}
		}
	})
}

// TestProfileVersions: each beta header gets the fields of its time, of the same
// profile, and takes no others.
func TestProfileVersions(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		made := b.inShape(api.Profiles202608, "POST", "/v1/user_profiles", object{"name": "Ada", "external_id": "u1", "external_user_onboarded_at": "2026-01-02T15:04:05Z"})
		var u struct{ ID string }
		must(t, json.Unmarshal(made.body, &u))
		common := []string{"created_at", "id", "metadata", "name", "trust_grants", "type", "updated_at"}
		for v, more := range map[api.ProfileVersion][]string{
			api.Profiles202603: {"external_id"},
			api.Profiles202608: {"access_type", "external_id", "external_user_onboarded_at"},
			api.Profiles202609: {"access_type", "external_user_details"},
			"":                 {"access_type", "external_user_details", "programs"},
		} {
			want := slices.Sorted(slices.Values(append(more, common...)))
			var listed api.Page[object]
			must(t, json.Unmarshal(b.inShape(v, "GET", "/v1/user_profiles", nil).body, &listed))
			var got object
			must(t, json.Unmarshal(b.inShape(v, "GET", "/v1/user_profiles/"+u.ID, nil).body, &got))
			for _, shown := range []object{got, listed.Data[0]} {
				if keys := slices.Sorted(keysOf(shown)); !slices.Equal(keys, want) {
					t.Errorf("%q shows %v, want %v", v, keys, want)
				}
			}
			for field, value := range map[string]any{
				"external_user_details": object{"country": "DE"}, "access_type": "passthrough", "external_id": "u1", "external_user_onboarded_at": "2026-01-02T15:04:05Z",
			} {
				a := b.inShape(v, "POST", "/v1/user_profiles/"+u.ID, object{field: value})
				if takes := slices.Contains(more, field); takes != (a.status == 200) || !takes && !strings.HasPrefix(a.failure().Message, field+":") {
					t.Errorf("%q with %s: %d %s", v, field, a.status, a.body)
				}
			}
		}
		// Both names of the same fact.
		got := ok[api.UserProfile](b, b.key, "GET", "/v1/user_profiles/"+u.ID, nil)
		if *got.Details.ReferenceID != "u1" || got.Details.OnboardedAt == nil {
			t.Errorf("details %+v", got.Details)
		}
	})
}

func keysOf(o object) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range o {
			if !yield(k) {
				return
			}
		}
	}
}

// TestProfilesByName: without regard to the case of ASCII letters, byte by byte
// on every database, and those without a name last in either direction.
func TestProfilesByName(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for _, name := range []string{"bob", "Éa", "ALICE", "", "alice", "Zoe", "éa", "_x"} {
			body := object{}
			if name != "" {
				body["name"] = name
			}
			ok[api.UserProfile](b, b.key, "POST", "/v1/user_profiles", body)
		}
		for order, want := range map[string]string{
			"asc":  "_x ALICE alice bob Zoe Éa éa -",
			"desc": "éa Éa Zoe bob alice ALICE _x -",
		} {
			var names []string
			for next := ""; ; {
				page := ok[api.Page[api.UserProfile]](b, b.key, "GET", "/v1/user_profiles?order_by=name&limit=1&order="+order+next, nil)
				for _, u := range page.Data {
					if u.Name == nil {
						names = append(names, "-")
						continue
					}
					names = append(names, *u.Name)
				}
				if page.NextPage == nil {
					break
				}
				next = "&page=" + *page.NextPage
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s: %s, want %s", order, got, want)
			}
		}
	})
}

func TestProfileMistakes(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		before := s.state()
		soon := time.Now().Add(2 * time.Minute).Format(time.RFC3339)
		for field, body := range map[string]object{
			"metadata":                           {"metadata": object{"k": ""}},
			"external_user_details.country":      {"external_user_details": object{"country": "de"}},
			"external_user_details.onboarded_at": {"external_user_details": object{"onboarded_at": soon}},
			"external_user_details.name_hash":    {"external_user_details": object{"name_hash": ""}},
		} {
			if a := b.do(b.key, "POST", "/v1/user_profiles", body); a.status != 400 || !strings.HasPrefix(a.failure().Message, field+": ") {
				t.Errorf("%v: %d %s", body, a.status, a.body)
			}
		}
		if s.state() != before {
			t.Error("what was refused has changed something")
		}
		// A clock that is a little ahead is forgiven.
		ok[api.UserProfile](b, b.key, "POST", "/v1/user_profiles", object{"external_user_details": object{"onboarded_at": time.Now().Add(30 * time.Second)}})
	})
}

// TestProfileURLs: they lead to a page of this server that says the truth, until
// the profile is gone, and no others do.
func TestProfileURLs(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		u := ok[api.UserProfile](b, b.key, "POST", "/v1/user_profiles", object{"name": "<b>Ada"})
		path := "/v1/user_profiles/" + u.ID
		for _, to := range []api.ProfileURL{
			ok[api.ProfileURL](b, b.key, "POST", path+"/enrollment_url", nil),
			ok[api.ProfileURL](b, b.key, "POST", path+"/action_urls", object{"action": object{"type": "enroll_end_user"}}),
		} {
			if !strings.HasPrefix(to.URL, b.url) || !to.ExpiresAt.After(time.Now()) || strings.Contains(to.URL, u.ID) {
				t.Errorf("made %+v", to)
			}
			page := b.do("", "GET", strings.TrimPrefix(to.URL, b.url), nil)
			if page.status != 200 || !strings.Contains(string(page.body), "no such programs") || !strings.Contains(string(page.body), "&lt;b&gt;Ada") {
				t.Errorf("%d %s", page.status, page.body)
			}
			defer func() {
				if a := b.do("", "GET", strings.TrimPrefix(to.URL, b.url), nil); a.status != 404 {
					t.Errorf("of a deleted profile: %d %s", a.status, a.body)
				}
			}()
		}
		ok[api.Deleted](b, b.key, "DELETE", path, nil)
		for _, token := range []string{"", "x", "dkey_x.AAAA", "\xff", "a\x00"} {
			if a := b.do("", "GET", "/user_profiles/enroll?token="+url.QueryEscape(token), nil); a.status != 404 && a.status != 400 {
				t.Errorf("with %q: %d %s", token, a.status, a.body)
			}
		}
	})
}
