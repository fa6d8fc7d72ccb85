package api

import "time"

// LatestVersion stands for a skill's newest version.
const LatestVersion = "latest"

// Where a skill comes from.
const (
	SkillSourceCustom    = "custom"
	SkillSourceAnthropic = "anthropic"
)

// SkillInfo is a skill: a directory of instructions and files, in versions, of
// which it has at least one.
type SkillInfo struct {
	ID              string      `json:"id"`
	Type            string      `json:"type"` // "skill"
	DisplayName     string      `json:"display_name"`
	LatestVersionID string      `json:"latest_version_id"`
	Source          SkillSource `json:"source"`
	CreatedAt       time.Time   `json:"created_at"`
	UpdatedAt       time.Time   `json:"updated_at"`
}

// SkillSource says where a skill comes from.
type SkillSource struct {
	Type string `json:"type"` // SkillSourceCustom or SkillSourceAnthropic
}

// SkillVersion is what a skill is at one time; it never changes. Name, which all
// versions of a skill share, is also its directory's.
type SkillVersion struct {
	ID          string    `json:"id"`
	Type        string    `json:"type"` // "skill_version"
	SkillID     string    `json:"skill_id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	CreatedAt   time.Time `json:"created_at"`
}
