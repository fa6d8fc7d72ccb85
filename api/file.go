package api

import "time"

// File is what is known of a file; its content is downloaded by id.
type File struct {
	ID        string     `json:"id"`
	Type      string     `json:"type"` // "file"
	Filename  string     `json:"filename"`
	MIMEType  string     `json:"mime_type"`
	SizeBytes int64      `json:"size_bytes"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	// Downloadable is always true here.
	Downloadable bool `json:"downloadable"`
	// Scope is the session that has made the file; null for one a client uploaded.
	Scope *FileScope `json:"scope"`
}

// What the name of a file may be: so many characters, and none of those that some
// system does not have in names.
const (
	MaxFileName    = 255
	NotInFileNames = `<>:"|?*\/`
)

// FileScope is what a file belongs to.
type FileScope struct {
	ID   string `json:"id"`
	Type string `json:"type"` // "session"
}
