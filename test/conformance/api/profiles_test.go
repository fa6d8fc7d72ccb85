package api

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
)

// TestUserProfiles calls both twins of each method: the beta one, which asks for
// an older shape of profiles, and the other, which gets the newest.
func TestUserProfiles(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx := t.Context()
		opened := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
		beta := s.SDK.Beta.UserProfiles
		old, err := beta.New(ctx, anthropic.BetaUserProfileNewParams{
			Name: anthropic.String("bob"), ExternalID: anthropic.String("u1"), ExternalUserOnboardedAt: anthropic.Time(opened),
			Metadata: map[string]string{"team": "risk"},
		})
		must(t, err)
		if old.ExternalID != "u1" || !old.ExternalUserOnboardedAt.Equal(opened) || old.JSON.ExternalUserDetails.Valid() {
			t.Errorf("made %s", old.RawJSON())
		}
		newest, err := s.SDK.UserProfiles.Get(ctx, old.ID, anthropic.UserProfileGetParams{})
		must(t, err)
		if d := newest.ExternalUserDetails; d.ReferenceID != "u1" || !d.OnboardedAt.Equal(opened) || !newest.JSON.Programs.Valid() {
			t.Errorf("found %s", newest.RawJSON())
		}
		changed, err := beta.Update(ctx, old.ID, anthropic.BetaUserProfileUpdateParams{Metadata: map[string]string{"team": "", "tier": "gold"}})
		must(t, err)
		if len(changed.Metadata) != 1 || changed.Metadata["tier"] != "gold" || changed.ExternalID != "u1" {
			t.Errorf("changed to %s", changed.RawJSON())
		}
		made, err := s.SDK.UserProfiles.New(ctx, anthropic.UserProfileNewParams{
			Name: anthropic.String("Alice"), AccessType: anthropic.UserProfileAccessTypePassthrough,
			ExternalUserDetails: anthropic.UserProfileExternalUserDetailsParams{Country: anthropic.String("DE")},
		})
		must(t, err)
		_, err = s.SDK.UserProfiles.Update(ctx, made.ID, anthropic.UserProfileUpdateParams{
			ExternalUserDetails: anthropic.UserProfileExternalUserDetailsParams{AccountStatus: anthropic.UserProfileExternalUserAccountStatusSuspended},
		})
		must(t, err)
		byName := s.SDK.UserProfiles.ListAutoPaging(ctx, anthropic.UserProfileListParams{
			Limit: anthropic.Int(1), OrderBy: anthropic.UserProfileListOrderByName, Order: anthropic.UserProfileListOrderAsc,
		})
		if !byName.Next() || byName.Current().ID != made.ID || byName.Current().ExternalUserDetails.AccountStatus != "suspended" || !byName.Next() || byName.Current().ID != old.ID {
			t.Errorf("listed %s: %v", byName.Current().RawJSON(), byName.Err())
		}
		if newestFirst := beta.ListAutoPaging(ctx, anthropic.BetaUserProfileListParams{}); !newestFirst.Next() || newestFirst.Current().ID != made.ID {
			t.Errorf("listed %s: %v", newestFirst.Current().RawJSON(), newestFirst.Err())
		}

		enrollment, err := beta.NewEnrollmentURL(ctx, old.ID, anthropic.BetaUserProfileNewEnrollmentURLParams{})
		must(t, err)
		action, err := beta.ActionURLs.New(ctx, old.ID, anthropic.BetaUserProfileActionURLNewParams{
			Action: anthropic.BetaUserProfileActionUnionParam{OfEnrollEndUser: &anthropic.BetaUserProfileEnrollEndUserActionParam{}},
		})
		must(t, err)
		other, err := s.SDK.UserProfiles.ActionURLs.New(ctx, old.ID, anthropic.UserProfileActionURLNewParams{
			Action: anthropic.UserProfileActionUnionParam{OfEnrollEndUser: &anthropic.UserProfileEnrollEndUserActionParam{}},
		})
		must(t, err)
		for _, to := range []string{enrollment.URL, action.URL, other.URL} {
			if page := read(t, to); !strings.Contains(page, "no such programs") {
				t.Errorf("%s says %s", to, page)
			}
		}
		_, err = beta.Delete(ctx, old.ID, anthropic.BetaUserProfileDeleteParams{})
		must(t, err)
		_, err = s.SDK.UserProfiles.Delete(ctx, made.ID, anthropic.UserProfileDeleteParams{})
		must(t, err)
		s.typeScript("profiles.mjs")
	})
}

// read gets a page as a browser would.
func read(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return string(body)
}
