// Package resource makes the resources of sessions out of what clients ask for:
// files, Git repositories and memory stores, where each appears, and the tokens
// they are fetched with. It owns no data; it may call file, memory and seal.
package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
)

// The limits of a session's resources.
const (
	maxFiles        = 500
	maxRepositories = 50
	maxMemories     = 8
	maxPath         = 1024
	maxURL          = 2048
	maxToken        = 8192
	maxInstructions = 4096

	maxRepositoryName = 100
	maxBranchName     = 255
)

// Where resources appear.
const (
	uploads   = "/mnt/session/uploads"
	workspace = "/workspace"
)

// Files looks up files.
type Files interface {
	Get(ctx context.Context, workspaceID, id string) (api.File, error)
}

// Memories looks up memory stores, and tells where one is mounted.
type Memories interface {
	Resource(ctx context.Context, workspaceID, id string) (api.MemoryResource, error)
}

// Sealer encrypts tokens, each for its resource.
type Sealer interface {
	Seal(place, text string) string
}

// Maker makes resources.
type Maker struct {
	Files    Files
	Memories Memories
	Sealer   Sealer
}

// Resource is one resource, made.
type Resource struct {
	ID   string // "" for a memory store
	Type string
	// JSON is the resource on the wire.
	JSON json.RawMessage
	// MountPath is where it appears.
	MountPath string
	// FileID is the file it is made of; "" for what is no file.
	FileID string
	// MemoryStoreID is the store it is; "" for what is no memory store.
	MemoryStoreID string
	// ReadOnly tells that the session must not write to the store.
	ReadOnly bool
	// SealedToken is its token, sealed for its id; "" for none.
	SealedToken string
}

// params is any resource, as asked for.
type params struct {
	Type               string        `json:"type"`
	FileID             string        `json:"file_id"`
	MountPath          *string       `json:"mount_path"`
	URL                string        `json:"url"`
	AuthorizationToken *string       `json:"authorization_token"`
	Checkout           *api.Checkout `json:"checkout"`
	MemoryStoreID      string        `json:"memory_store_id"`
	Access             *string       `json:"access"`
	Instructions       *string       `json:"instructions"`
}

// Make makes the resources of a session that is created.
func (m Maker) Make(ctx context.Context, workspaceID string, raws []json.RawMessage) ([]Resource, error) {
	made := make([]Resource, 0, len(raws))
	for i, raw := range raws {
		r, err := m.make(ctx, workspaceID, fmt.Sprintf("resources[%d].", i), raw, made)
		if err != nil {
			return nil, err
		}
		if err := Fits(fmt.Sprintf("resources[%d].", i), made, r); err != nil {
			return nil, err
		}
		made = append(made, r)
	}
	return made, nil
}

// MakeFile makes a resource that is added to a session that exists, which only a
// file can be.
func (m Maker) MakeFile(ctx context.Context, workspaceID string, raw json.RawMessage) (Resource, error) {
	r, err := m.make(ctx, workspaceID, "", raw, nil)
	if err == nil && r.Type != api.ResourceFile {
		err = api.Invalid("type", "only a file can be added to a session that exists; give a %s when the session is created", r.Type)
	}
	return r, err
}

// Fits tells whether a resource can be beside those there are.
func Fits(field string, there []Resource, r Resource) error {
	limit := map[string]int{api.ResourceFile: maxFiles, api.ResourceRepository: maxRepositories, api.ResourceMemory: maxMemories}[r.Type]
	for _, other := range there {
		if other.Type == r.Type {
			limit--
		}
		if other.MountPath == r.MountPath || within(r.MountPath, other.MountPath) || within(other.MountPath, r.MountPath) {
			return api.Invalid(field+"mount_path", "%s is taken by another resource, at %s", r.MountPath, other.MountPath)
		}
	}
	if limit <= 0 {
		return api.Invalid(strings.TrimSuffix(field, "."), "a session has at most %d files, %d repositories and %d memory stores", maxFiles, maxRepositories, maxMemories)
	}
	return nil
}

func within(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }

func (m Maker) make(ctx context.Context, workspaceID, field string, raw json.RawMessage, there []Resource) (Resource, error) {
	var p params
	if err := json.Unmarshal(raw, &p); err != nil {
		return Resource{}, api.Invalid(strings.TrimSuffix(field, "."), "is not a resource: %v", err)
	}
	switch p.Type {
	case api.ResourceFile:
		return m.file(ctx, workspaceID, field, p)
	case api.ResourceRepository:
		return m.repository(field, p)
	case api.ResourceMemory:
		return m.memory(ctx, workspaceID, field, p, there)
	}
	return Resource{}, api.Invalid(field+"type", "must be %s, %s or %s, not %.40q", api.ResourceFile, api.ResourceRepository, api.ResourceMemory, p.Type)
}

func (m Maker) file(ctx context.Context, workspaceID, field string, p params) (Resource, error) {
	if p.FileID == "" {
		return Resource{}, api.Invalid(field+"file_id", "is required")
	}
	if _, err := m.Files.Get(ctx, workspaceID, p.FileID); err != nil {
		return Resource{}, err
	}
	r := api.FileResource{ID: api.NewID(api.PrefixResource), Type: p.Type, FileID: p.FileID, MountPath: path.Join(uploads, p.FileID)}
	r.CreatedAt = time.Now().UTC().Truncate(time.Microsecond)
	r.UpdatedAt = r.CreatedAt
	if p.MountPath != nil {
		where := *p.MountPath
		if !within(where, uploads) && !within(where, workspace) {
			// As the hosted service has it: whatever path is asked for is one below
			// the uploads.
			where = uploads + "/" + strings.TrimPrefix(where, "/")
		}
		if err := checkPath(field, where); err != nil {
			return Resource{}, err
		}
		r.MountPath = where
	}
	return encode(r.ID, r.Type, r.MountPath, r)
}

func checkPath(field, where string) error {
	switch {
	case len(where) > maxPath:
		return api.Invalid(field+"mount_path", "has %d bytes, at most %d are allowed", len(where), maxPath)
	case path.Clean(where) != where || strings.HasSuffix(where, "/"):
		return api.Invalid(field+"mount_path", "must be a path without . or .. or empty parts in it")
	case strings.ContainsFunc(where, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return api.Invalid(field+"mount_path", "must not contain control characters")
	}
	for part := range strings.SplitSeq(where, "/") {
		if len(part) > 255 {
			return api.Invalid(field+"mount_path", "has a part of %d bytes, at most 255 are allowed", len(part))
		}
	}
	return nil
}

// repositoryName is the last part of a repository's address.
var repositoryName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

func (m Maker) repository(field string, p params) (Resource, error) {
	name, err := checkURL(field, p.URL)
	if err != nil {
		return Resource{}, err
	}
	if err := checkCheckout(field+"checkout", p.Checkout); err != nil {
		return Resource{}, err
	}
	r := api.RepositoryResource{ID: api.NewID(api.PrefixResource), Type: p.Type, URL: p.URL, Checkout: p.Checkout, MountPath: path.Join(workspace, name)}
	r.CreatedAt = time.Now().UTC().Truncate(time.Microsecond)
	r.UpdatedAt = r.CreatedAt
	if p.MountPath != nil {
		if !within(*p.MountPath, workspace) {
			return Resource{}, api.Invalid(field+"mount_path", "must be below %s", workspace)
		}
		if err := checkPath(field, *p.MountPath); err != nil {
			return Resource{}, err
		}
		r.MountPath = *p.MountPath
	}
	made, err := encode(r.ID, r.Type, r.MountPath, r)
	if err != nil || p.AuthorizationToken == nil {
		return made, err
	}
	made.SealedToken, err = m.SealToken(field, r.ID, *p.AuthorizationToken)
	return made, err
}

// SealToken checks and seals the token of a repository.
func (m Maker) SealToken(field, resourceID, token string) (string, error) {
	switch {
	case token == "":
		return "", api.Invalid(field+"authorization_token", "must not be empty")
	case len(token) > maxToken:
		return "", api.Invalid(field+"authorization_token", "has %d bytes, at most %d are allowed", len(token), maxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", api.Invalid(field+"authorization_token", "must be printable ASCII without spaces")
	}
	return m.Sealer.Seal(resourceID, token), nil
}

// checkURL returns the repository's name.
func checkURL(field, address string) (name string, err error) {
	u, err := url.Parse(address)
	switch {
	case address == "":
		return "", api.Invalid(field+"url", "is required")
	case len(address) > maxURL:
		return "", api.Invalid(field+"url", "has %d bytes, at most %d are allowed", len(address), maxURL)
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return "", api.Invalid(field+"url", "must be the https:// address of a Git repository")
	case u.User != nil:
		return "", api.Invalid(field+"url", "must not hold a user or password; give a token as authorization_token")
	case u.RawQuery != "" || u.Fragment != "":
		return "", api.Invalid(field+"url", "must not have a query or a fragment")
	}
	name = strings.TrimSuffix(path.Base(u.Path), ".git")
	if len(name) > maxRepositoryName || !repositoryName.MatchString(name) {
		return "", api.Invalid(field+"url", "must end with the name of a repository")
	}
	return name, nil
}

var branchName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/+@#-]*$`)

func checkCheckout(field string, c *api.Checkout) error {
	switch {
	case c == nil:
		return nil
	case c.Type == "branch" && (len(c.Name) > maxBranchName || !branchName.MatchString(c.Name) || strings.Contains(c.Name, "..") || strings.HasSuffix(c.Name, "/") || strings.HasSuffix(c.Name, ".lock")):
		return api.Invalid(field+".name", "must be the name of a branch")
	case c.Type == "commit" && !api.IsDigest(c.SHA):
		return api.Invalid(field+".sha", "must be the full id of a commit, 40 or 64 lowercase hexadecimal digits")
	case c.Type != "branch" && c.Type != "commit":
		return api.Invalid(field+".type", "must be branch or commit, not %.40q", c.Type)
	case c.Type == "branch" && c.SHA != "":
		return api.Invalid(field+".sha", "belongs to a checkout of the type commit")
	case c.Type == "commit" && c.Name != "":
		return api.Invalid(field+".name", "belongs to a checkout of the type branch")
	}
	return nil
}

func (m Maker) memory(ctx context.Context, workspaceID, field string, p params, there []Resource) (Resource, error) {
	if p.MemoryStoreID == "" {
		return Resource{}, api.Invalid(field+"memory_store_id", "is required")
	}
	r, err := m.Memories.Resource(ctx, workspaceID, p.MemoryStoreID)
	if err != nil {
		return Resource{}, err
	}
	r.Access, r.Instructions = api.MemoryReadWrite, p.Instructions
	if p.Access != nil {
		r.Access = *p.Access
	}
	switch {
	case r.Access != api.MemoryReadWrite && r.Access != api.MemoryReadOnly:
		return Resource{}, api.Invalid(field+"access", "must be %s or %s, not %.40q", api.MemoryReadWrite, api.MemoryReadOnly, r.Access)
	case p.Instructions != nil && utf8.RuneCountInString(*p.Instructions) > maxInstructions:
		return Resource{}, api.Invalid(field+"instructions", "has %d characters, at most %d are allowed", utf8.RuneCountInString(*p.Instructions), maxInstructions)
	}
	if slices.ContainsFunc(there, func(other Resource) bool { return other.MemoryStoreID == r.MemoryStoreID }) {
		return Resource{}, api.Invalid(field+"memory_store_id", "memory store %s is given twice", r.MemoryStoreID)
	}
	r.MountPath = unused(r.MountPath, there)
	made, err := encode("", r.Type, r.MountPath, r)
	made.MemoryStoreID, made.ReadOnly = r.MemoryStoreID, r.Access == api.MemoryReadOnly
	return made, err
}

// unused tells stores of one name apart.
func unused(mountPath string, there []Resource) string {
	name := mountPath
	for n := 2; slices.ContainsFunc(there, func(r Resource) bool { return r.MountPath == name }); n++ {
		name = fmt.Sprintf("%s-%d", mountPath, n)
	}
	return name
}

func encode(id, kind, mountPath string, v any) (Resource, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Resource{}, fmt.Errorf("encode a resource: %w", err)
	}
	return Resource{ID: id, Type: kind, JSON: raw, MountPath: mountPath}, nil
}

// Decode reads a resource back from what is kept of it.
func Decode(raw json.RawMessage) (Resource, error) {
	var r struct {
		ID        string `json:"id"`
		Type      string `json:"type"`
		MountPath string `json:"mount_path"`
		FileID    string `json:"file_id"`
		StoreID   string `json:"memory_store_id"`
		Access    string `json:"access"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return Resource{}, fmt.Errorf("decode a resource: %w", err)
	}
	return Resource{ID: r.ID, Type: r.Type, JSON: raw, MountPath: r.MountPath, FileID: r.FileID, MemoryStoreID: r.StoreID, ReadOnly: r.Access == api.MemoryReadOnly}, nil
}

// DecodeAll is Decode for those of a session.
func DecodeAll(raws []json.RawMessage) ([]Resource, error) {
	all := make([]Resource, len(raws))
	for i, raw := range raws {
		var err error
		if all[i], err = Decode(raw); err != nil {
			return nil, err
		}
	}
	return all, nil
}
