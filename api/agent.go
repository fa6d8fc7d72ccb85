package api

import (
	"encoding/json"
	"time"
)

// Agent is one version of an agent's configuration.
type Agent struct {
	ID                string            `json:"id"`
	Type              string            `json:"type"` // "agent"
	Version           int64             `json:"version"`
	Name              string            `json:"name"`
	Description       *string           `json:"description"`
	Model             ModelConfig       `json:"model"`
	System            *string           `json:"system"`
	Tools             []Tool            `json:"tools"`
	MCPServers        []MCPServer       `json:"mcp_servers"`
	Skills            []Skill           `json:"skills"`
	Multiagent        json.RawMessage   `json:"multiagent"` // object or null
	ExecutionIdentity json.RawMessage   `json:"execution_identity"`
	Metadata          map[string]string `json:"metadata"`
	CreatedAt         time.Time         `json:"created_at"`
	UpdatedAt         time.Time         `json:"updated_at"`
	ArchivedAt        *time.Time        `json:"archived_at"`
}

// SessionAgent is the agent as a session holds it: pinned to a version, with
// the session's overrides applied.
type SessionAgent struct {
	ID                string          `json:"id"`
	Type              string          `json:"type"` // "agent"
	Version           int64           `json:"version"`
	Name              string          `json:"name"`
	Description       *string         `json:"description"`
	Model             ModelConfig     `json:"model"`
	System            *string         `json:"system"`
	Tools             []Tool          `json:"tools"`
	MCPServers        []MCPServer     `json:"mcp_servers"`
	Skills            []Skill         `json:"skills"`
	Multiagent        json.RawMessage `json:"multiagent"`
	ExecutionIdentity json.RawMessage `json:"execution_identity"`
}

// ModelConfig says which model an agent thinks with.
type ModelConfig struct {
	ID           string  `json:"id"`
	Effort       *Effort `json:"effort,omitempty"`
	InferenceGeo string  `json:"inference_geo,omitempty"`
	Speed        string  `json:"speed,omitempty"` // "standard" or "fast"
}

// Effort is how hard a model may think: low, medium, high, xhigh or max.
type Effort struct {
	Type string `json:"type"`
}

// The kinds of tool entry an agent may list.
const (
	ToolTypeAgentToolset = "agent_toolset_20260401"
	ToolTypeMCPToolset   = "mcp_toolset"
	ToolTypeCustom       = "custom"
)

// Tool is one entry of an agent's tools: the built-in toolset, the toolset of
// one MCP server, or a custom tool, told apart by Type. Fields of the other
// kinds are absent.
type Tool struct {
	Type string `json:"type"`

	// Both toolsets.
	DefaultConfig *ToolsetDefault `json:"default_config,omitempty"`
	Configs       []ToolConfig    `json:"configs,omitzero"`
	// The MCP toolset.
	MCPServerName string `json:"mcp_server_name,omitempty"`
	// Custom tools.
	Name        string          `json:"name,omitempty"`
	Description string          `json:"description,omitempty"`
	InputSchema json.RawMessage `json:"input_schema,omitempty"`
}

// ToolsetDefault applies to every tool of a set that has no config of its own.
type ToolsetDefault struct {
	Enabled          bool             `json:"enabled"`
	PermissionPolicy PermissionPolicy `json:"permission_policy"`
}

// ToolConfig is the configuration of one tool of a set.
type ToolConfig struct {
	Name             string           `json:"name"`
	Type             string           `json:"type,omitempty"` // equals Name in the built-in toolset, absent in MCP toolsets
	Enabled          bool             `json:"enabled"`
	PermissionPolicy PermissionPolicy `json:"permission_policy"`

	// web_search and web_fetch only.
	AllowedDomains   []string        `json:"allowed_domains,omitempty"`
	BlockedDomains   []string        `json:"blocked_domains,omitempty"`
	MaxContentTokens *int64          `json:"max_content_tokens,omitempty"`
	URLSources       json.RawMessage `json:"url_sources,omitempty"` // web_fetch: object or null, always present
	UserLocation     json.RawMessage `json:"user_location,omitempty"`
}

// WebUserLocation is about where the person is for whom web_search searches.
type WebUserLocation struct {
	Type     string  `json:"type"` // "approximate"
	City     *string `json:"city,omitempty"`
	Country  *string `json:"country,omitempty"` // ISO 3166-1, two capital letters
	Region   *string `json:"region,omitempty"`
	Timezone *string `json:"timezone,omitempty"` // an IANA name
}

// WebURLSources says which sources give web_fetch addresses that it may fetch;
// null lets all of a source through.
type WebURLSources struct {
	ClientToolResults *WebURLFilter `json:"client_tool_results"`
	ServerToolResults *WebURLFilter `json:"server_tool_results"`
	UserInput         *WebURLFilter `json:"user_input"`
}

// WebURLFilter is all, none, or only or all except the results of some tools.
type WebURLFilter struct {
	Type  string             `json:"type"`
	Tools []WebToolReference `json:"tools,omitempty"`
}

// WebToolReference names a tool.
type WebToolReference struct {
	Name string `json:"name"`
	Type string `json:"type"` // "tool_reference"
}

// The permission policies of a tool.
const (
	PolicyAlwaysAllow = "always_allow"
	PolicyAlwaysAsk   = "always_ask"
	PolicyAuto        = "auto"
)

// PermissionPolicy decides whether a call of a tool runs, waits for a
// user.tool_confirmation, or is judged call by call.
type PermissionPolicy struct {
	Type string `json:"type"`
}

// The tools of the built-in toolset. The first six run in the hands, the web
// tools in the brain.
const (
	ToolBash      = "bash"
	ToolRead      = "read"
	ToolWrite     = "write"
	ToolEdit      = "edit"
	ToolGlob      = "glob"
	ToolGrep      = "grep"
	ToolWebFetch  = "web_fetch"
	ToolWebSearch = "web_search"
)

// MCPServer is a remote MCP server an agent may call.
type MCPServer struct {
	Name string `json:"name"`
	Type string `json:"type"` // "url"
	URL  string `json:"url"`
}

// Skill is a reference to a version of a skill.
type Skill struct {
	Type    string `json:"type"` // "anthropic" or "custom"
	SkillID string `json:"skill_id"`
	Version string `json:"version"`
}
