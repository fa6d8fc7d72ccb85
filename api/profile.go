package api

import "time"

// How a platform serves the entity of a profile.
const (
	AccessApplication = "application"
	AccessPassthrough = "passthrough"
)

// UserProfile is an entity that a platform serves through the API. It is what
// requests without a beta header get; ProfileVersion says what others get.
type UserProfile struct {
	UserProfileCore
	AccessType string              `json:"access_type"`
	Details    ExternalUserDetails `json:"external_user_details"`
	Programs   *UserPrograms       `json:"programs,omitempty"`
}

// UserProfileCore is what all versions of a profile have.
type UserProfileCore struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "user_profile"
	Name        *string           `json:"name"`
	Metadata    map[string]string `json:"metadata"`
	TrustGrants map[string]any    `json:"trust_grants"` // empty: nobody here gives any
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
}

// UserPrograms are the vendor's programs, none of which this server can grant.
type UserPrograms struct {
	Cyber *struct{} `json:"cyber"`
	EFS   *struct{} `json:"efs"`
}

// ExternalUserDetails are what the platform says of the entity; nil where it
// has said nothing.
type ExternalUserDetails struct {
	AccountStatus *string    `json:"account_status"`
	Country       *string    `json:"country"`
	EmailHash     *string    `json:"email_hash"`
	EntityType    *string    `json:"entity_type"`
	NameHash      *string    `json:"name_hash"`
	OnboardedAt   *time.Time `json:"onboarded_at"`
	ReferenceID   *string    `json:"reference_id"`
}

// ProfileVersion is the shape of user profiles that a request asks for, by its
// beta header; "" is the newest.
type ProfileVersion string

// The versions there have been.
const (
	Profiles202603 ProfileVersion = "user-profiles-2026-03-24"
	Profiles202608 ProfileVersion = "user-profiles-2026-08-18"
	Profiles202609 ProfileVersion = "user-profiles-2026-09-04"
)

// In is the profile in the shape of a version.
func (p UserProfile) In(v ProfileVersion) any {
	switch v {
	case Profiles202603:
		return struct {
			UserProfileCore
			ExternalID *string `json:"external_id"`
		}{p.UserProfileCore, p.Details.ReferenceID}
	case Profiles202608:
		return struct {
			UserProfileCore
			AccessType  string     `json:"access_type"`
			ExternalID  *string    `json:"external_id"`
			OnboardedAt *time.Time `json:"external_user_onboarded_at"`
		}{p.UserProfileCore, p.AccessType, p.Details.ReferenceID, p.Details.OnboardedAt}
	case Profiles202609:
		return p
	}
	p.Programs = &UserPrograms{}
	return p
}

// ProfileURL is a URL to give to the entity of a profile.
type ProfileURL struct {
	Type      string    `json:"type"` // "enrollment_url" or "user_profile_action_url"
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}
