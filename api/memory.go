package api

import "time"

// MemoryStore is a named container of memories, which sessions find mounted as a
// directory.
type MemoryStore struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "memory_store"
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
	ArchivedAt  *time.Time        `json:"archived_at"`
}

// TypeMemory is the type of a memory, and TypeMemoryPrefix that of what stands for
// those further below in a list.
const (
	TypeMemory       = "memory"
	TypeMemoryPrefix = "memory_prefix"
)

// Memory is a text at a path in a memory store.
type Memory struct {
	ID              string `json:"id"`
	Type            string `json:"type"` // TypeMemory
	MemoryStoreID   string `json:"memory_store_id"`
	MemoryVersionID string `json:"memory_version_id"` // of its content as it is now
	Path            string `json:"path"`              // begins with a slash
	// ContentSHA256 is of the content's bytes as they are, in lowercase hexadecimal.
	ContentSHA256    string    `json:"content_sha256"`
	ContentSizeBytes int64     `json:"content_size_bytes"`
	Content          *string   `json:"content"` // nil where it was not asked for
	CreatedAt        time.Time `json:"created_at"`
	UpdatedAt        time.Time `json:"updated_at"`
}

// MemoryPrefix stands in a list for all memories below a path, which ends with a
// slash.
type MemoryPrefix struct {
	Type string `json:"type"` // TypeMemoryPrefix
	Path string `json:"path"`
}

// MemoryVersion is one change of a memory. What it held is nil once it has been
// redacted, and of the version that records a deletion.
type MemoryVersion struct {
	ID               string       `json:"id"`
	Type             string       `json:"type"` // "memory_version"
	MemoryStoreID    string       `json:"memory_store_id"`
	MemoryID         string       `json:"memory_id"`
	Operation        string       `json:"operation"` // MemoryCreated, MemoryModified or MemoryDeleted
	Path             *string      `json:"path"`
	Content          *string      `json:"content"`
	ContentSHA256    *string      `json:"content_sha256"`
	ContentSizeBytes *int64       `json:"content_size_bytes"`
	CreatedAt        time.Time    `json:"created_at"`
	CreatedBy        *MemoryActor `json:"created_by,omitempty"`
	RedactedAt       *time.Time   `json:"redacted_at"`
	RedactedBy       *MemoryActor `json:"redacted_by,omitempty"`
}

// What a version records.
const (
	MemoryCreated  = "created"
	MemoryModified = "modified"
	MemoryDeleted  = "deleted"
)

// MemoryActor is who changed a memory: which of the ids it has depends on its type.
type MemoryActor struct {
	Type      string `json:"type"`
	SessionID string `json:"session_id,omitempty"`
	APIKeyID  string `json:"api_key_id,omitempty"`
	UserID    string `json:"user_id,omitempty"`
}

// The types of actors.
const (
	ActorSession = "session_actor"
	ActorAPI     = "api_actor"
	ActorUser    = "user_actor"
)

// NewMemoryActor makes an actor of a type from its id.
func NewMemoryActor(kind, id string) MemoryActor {
	a := MemoryActor{Type: kind}
	switch kind {
	case ActorSession:
		a.SessionID = id
	case ActorAPI:
		a.APIKeyID = id
	case ActorUser:
		a.UserID = id
	}
	return a
}

// ID is the actor's id, whatever it names.
func (a MemoryActor) ID() string { return a.SessionID + a.APIKeyID + a.UserID }

// MemoryMarker is the path, relative to where a store is mounted, of the file by
// which workers know that a directory is that of the store. No memory is there.
const MemoryMarker = ".anthropic-memory-store"

// The limits of memory stores.
const (
	MaxMemoryContent  = 100 << 10 // bytes
	MaxMemoryPath     = 1024      // bytes
	MaxMemorySegments = 20
	MaxMemories       = 2000 // in a store
)
