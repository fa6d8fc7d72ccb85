package api

import "time"

// The types of a session's resources.
const (
	ResourceFile       = "file"
	ResourceRepository = "github_repository"
	ResourceMemory     = "memory_store"
)

// FileResource is a file that a session finds at MountPath.
type FileResource struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"` // ResourceFile
	FileID    string    `json:"file_id"`
	MountPath string    `json:"mount_path"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// RepositoryResource is a Git repository that a session finds at MountPath. The
// token it is fetched with is never part of it.
type RepositoryResource struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"` // ResourceRepository
	URL       string    `json:"url"`
	Checkout  *Checkout `json:"checkout"`
	MountPath string    `json:"mount_path"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Checkout is what of a repository is checked out; nil for its default branch.
type Checkout struct {
	Type string `json:"type"` // "branch" or "commit"
	Name string `json:"name,omitempty"`
	SHA  string `json:"sha,omitempty"`
}

// MemoryResource is a memory store that a session finds at MountPath. It has no
// id of its own.
type MemoryResource struct {
	Type          string  `json:"type"` // ResourceMemory
	MemoryStoreID string  `json:"memory_store_id"`
	Access        string  `json:"access"` // MemoryReadWrite or MemoryReadOnly
	Instructions  *string `json:"instructions"`
	Name          string  `json:"name"`
	Description   string  `json:"description"`
	MountPath     string  `json:"mount_path"`
}

// What a session may do with a memory store.
const (
	MemoryReadWrite = "read_write"
	MemoryReadOnly  = "read_only"
)

// ResourceToken is what a worker fetches a repository with.
type ResourceToken struct {
	// AuthorizationToken is "" for a repository that needs none.
	AuthorizationToken string `json:"authorization_token"`
}
