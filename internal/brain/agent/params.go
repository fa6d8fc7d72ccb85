package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"hearth/api"
)

// Params are the fields of a request to create or update an agent.
type Params struct {
	Name              api.Optional[string]             `json:"name"`
	Model             api.Optional[json.RawMessage]    `json:"model"` // an id, or an object
	Description       api.Optional[string]             `json:"description"`
	System            api.Optional[string]             `json:"system"`
	Tools             api.Optional[[]json.RawMessage]  `json:"tools"`
	MCPServers        api.Optional[[]api.MCPServer]    `json:"mcp_servers"`
	Skills            api.Optional[[]api.Skill]        `json:"skills"`
	Multiagent        api.Optional[json.RawMessage]    `json:"multiagent"`
	ExecutionIdentity api.Optional[json.RawMessage]    `json:"execution_identity"`
	Metadata          api.Optional[map[string]*string] `json:"metadata"`
	Version           api.Optional[int64]              `json:"version"` // update only
}

// The limits of an agent's configuration.
const (
	maxName        = 256
	maxDescription = 2048
	maxSystem      = 100_000
	maxTools       = 256
	maxServers     = 20
	maxSkills      = 500
	maxURL         = 2048
)

// apply changes an agent as the params ask and checks the result as a whole.
func (p Params) apply(a *api.Agent) error {
	if p.Name.Set {
		if n := utf8.RuneCountInString(p.Name.Value); p.Name.Null || n == 0 || n > maxName {
			return api.Invalid("name", "must have 1 to %d characters", maxName)
		}
		a.Name = p.Name.Value
	}
	if p.Model.Set {
		if p.Model.Null {
			return api.Invalid("model", "cannot be cleared").WithCode("agent_model_required")
		}
		model, err := ParseModel(p.Model.Value)
		if err != nil {
			return err
		}
		a.Model = model
	}
	for _, text := range []struct {
		field string
		from  api.Optional[string]
		to    **string
		limit int
	}{{"description", p.Description, &a.Description, maxDescription}, {"system", p.System, &a.System, maxSystem}} {
		if n := utf8.RuneCountInString(text.from.Value); n > text.limit {
			return api.Invalid(text.field, "has %d characters, at most %d are allowed", n, text.limit)
		}
		if text.from.Set {
			*text.to = text.from.Pointer()
		}
	}
	if err := p.applyTools(a); err != nil {
		return err
	}
	return p.applyRest(a)
}

func (p Params) applyTools(a *api.Agent) error {
	if p.Tools.Set {
		tools, err := ParseTools(p.Tools.Value)
		if err != nil {
			return err
		}
		a.Tools = tools
	}
	if p.MCPServers.Set {
		a.MCPServers = append([]api.MCPServer{}, p.MCPServers.Value...)
	}
	if p.Skills.Set {
		a.Skills = append([]api.Skill{}, p.Skills.Value...)
	}
	return Check(a.Tools, a.MCPServers, a.Skills)
}

func (p Params) applyRest(a *api.Agent) error {
	if p.Multiagent.Set && p.Multiagent.Null {
		a.Multiagent = json.RawMessage("null")
	}
	if p.ExecutionIdentity.Given() {
		var identity struct{ Type string }
		if json.Unmarshal(p.ExecutionIdentity.Value, &identity) != nil || identity.Type != "service_account" {
			return api.Invalid("execution_identity", `only {"type":"service_account"} is supported by this server`)
		}
	}
	if p.Metadata.Given() {
		return api.MergeMetadata(a.Metadata, p.Metadata.Value)
	}
	return nil
}

var efforts = []string{"low", "medium", "high", "xhigh", "max"}

// ParseModel reads a model as requests give it: an id, or an object.
func ParseModel(raw json.RawMessage) (api.ModelConfig, error) {
	var id string
	if json.Unmarshal(raw, &id) == nil {
		return checkModel("model", api.ModelConfig{ID: id})
	}
	var m struct {
		ID           string                        `json:"id"`
		Effort       api.Optional[json.RawMessage] `json:"effort"` // a word, or an object with it as type
		InferenceGeo api.Optional[string]          `json:"inference_geo"`
		Speed        api.Optional[string]          `json:"speed"`
	}
	if err := decode("model", raw, &m); err != nil {
		return api.ModelConfig{}, err
	}
	if m.Speed.Given() && m.Speed.Value == "" {
		return api.ModelConfig{}, api.Invalid("model.speed", "must be standard or fast")
	}
	model := api.ModelConfig{ID: m.ID, InferenceGeo: m.InferenceGeo.Value, Speed: m.Speed.Value}
	if m.Effort.Given() {
		effort := api.Effort{}
		if json.Unmarshal(m.Effort.Value, &effort.Type) != nil && json.Unmarshal(m.Effort.Value, &effort) != nil || !slices.Contains(efforts, effort.Type) {
			return model, api.Invalid("model.effort", "must be one of %s", strings.Join(efforts, ", "))
		}
		model.Effort = &effort
	}
	return checkModel("model.id", model)
}

// checkModel checks a model whose id stands in the field named.
func checkModel(field string, m api.ModelConfig) (api.ModelConfig, error) {
	if n := utf8.RuneCountInString(m.ID); n == 0 || n > maxName {
		return m, api.Invalid(field, "must name a model in 1 to %d characters", maxName)
	}
	if m.Speed != "" && m.Speed != "standard" && m.Speed != "fast" {
		return m, api.Invalid("model.speed", "must be standard or fast")
	}
	return m, nil
}

// toolParams is a tool entry as requests give it.
type toolParams struct {
	Type          string                             `json:"type"`
	DefaultConfig api.Optional[toolsetDefaultParams] `json:"default_config"`
	Configs       []toolConfigParams                 `json:"configs"`
	MCPServerName string                             `json:"mcp_server_name"`
	Name          string                             `json:"name"`
	Description   string                             `json:"description"`
	InputSchema   json.RawMessage                    `json:"input_schema"`
}

type toolsetDefaultParams struct {
	Enabled          api.Optional[bool]                 `json:"enabled"`
	PermissionPolicy api.Optional[api.PermissionPolicy] `json:"permission_policy"`
}

type toolConfigParams struct {
	toolsetDefaultParams
	Name             string          `json:"name"`
	Type             string          `json:"type"`
	AllowedDomains   []string        `json:"allowed_domains"`
	BlockedDomains   []string        `json:"blocked_domains"`
	MaxContentTokens *int64          `json:"max_content_tokens"`
	URLSources       json.RawMessage `json:"url_sources"`
	UserLocation     json.RawMessage `json:"user_location"`
}

// ParseTools reads tools as requests give them, in the form answers give them:
// defaults filled in.
func ParseTools(raws []json.RawMessage) ([]api.Tool, error) {
	tools := make([]api.Tool, 0, len(raws))
	for i, raw := range raws {
		field := fmt.Sprintf("tools[%d]", i)
		var p toolParams
		if err := decode(field, raw, &p); err != nil {
			return nil, err
		}
		var tool api.Tool
		var err error
		switch p.Type {
		case api.ToolTypeAgentToolset:
			tool, err = p.toolset(field, api.PolicyAlwaysAllow)
		case api.ToolTypeMCPToolset:
			tool, err = p.toolset(field, api.PolicyAlwaysAsk)
			tool.MCPServerName = p.MCPServerName
		case api.ToolTypeCustom:
			tool, err = p.custom(field)
		default:
			err = api.Invalid(field+".type", "%.80q is not one of %s, %s, %s", p.Type, api.ToolTypeAgentToolset, api.ToolTypeMCPToolset, api.ToolTypeCustom)
		}
		if err != nil {
			return nil, err
		}
		tools = append(tools, tool)
	}
	return tools, nil
}

// builtIn are the tools of the agent toolset.
var builtIn = []string{api.ToolBash, api.ToolRead, api.ToolWrite, api.ToolEdit, api.ToolGlob, api.ToolGrep, api.ToolWebFetch, api.ToolWebSearch}

func (p toolParams) toolset(field, defaultPolicy string) (api.Tool, error) {
	base := api.ToolsetDefault{Enabled: true, PermissionPolicy: api.PermissionPolicy{Type: defaultPolicy}}
	defaults, err := p.DefaultConfig.Value.over(field+".default_config", base)
	if err != nil {
		return api.Tool{}, err
	}
	tool := api.Tool{Type: p.Type, DefaultConfig: &defaults, Configs: []api.ToolConfig{}}
	for i, c := range p.Configs {
		at := fmt.Sprintf("%s.configs[%d]", field, i)
		if p.Type == api.ToolTypeAgentToolset && !slices.Contains(builtIn, c.Name) {
			return tool, api.Invalid(at+".name", "%.80q is not one of %s", c.Name, strings.Join(builtIn, ", "))
		}
		if c.Type != "" && c.Type != c.Name {
			return tool, api.Invalid(at+".type", "must be %q, as the name is, or absent", c.Name)
		}
		if slices.ContainsFunc(tool.Configs, func(o api.ToolConfig) bool { return o.Name == c.Name }) {
			return tool, api.Invalid(at+".name", "%q is configured twice", c.Name)
		}
		settings, err := c.over(at, defaults)
		if err != nil {
			return tool, err
		}
		config := api.ToolConfig{Name: c.Name, Enabled: settings.Enabled, PermissionPolicy: settings.PermissionPolicy}
		if p.Type == api.ToolTypeAgentToolset {
			config.Type = c.Name
			if err := c.web(at, &config); err != nil {
				return tool, err
			}
		}
		tool.Configs = append(tool.Configs, config)
	}
	return tool, nil
}

// over lays settings over those they are based on.
func (p toolsetDefaultParams) over(field string, base api.ToolsetDefault) (api.ToolsetDefault, error) {
	if p.Enabled.Given() {
		base.Enabled = p.Enabled.Value
	}
	if p.PermissionPolicy.Given() {
		base.PermissionPolicy = p.PermissionPolicy.Value
	}
	policies := []string{api.PolicyAlwaysAllow, api.PolicyAlwaysAsk, api.PolicyAuto}
	if !slices.Contains(policies, base.PermissionPolicy.Type) {
		return base, api.Invalid(field+".permission_policy.type", "must be one of %s", strings.Join(policies, ", "))
	}
	return base, nil
}

// maxDomains bounds each list of domains of a web tool.
const maxDomains = 64

func (p toolConfigParams) web(field string, config *api.ToolConfig) error {
	if p.Name != api.ToolWebFetch && p.Name != api.ToolWebSearch {
		return nil
	}
	if p.AllowedDomains != nil && p.BlockedDomains != nil {
		return api.Invalid(field, "allowed_domains and blocked_domains exclude each other")
	}
	for name, list := range map[string][]string{"allowed_domains": p.AllowedDomains, "blocked_domains": p.BlockedDomains} {
		if list != nil && (len(list) == 0 || len(list) > maxDomains) {
			return api.Invalid(field+"."+name, "must hold 1 to %d domains", maxDomains)
		}
	}
	config.AllowedDomains, config.BlockedDomains = p.AllowedDomains, p.BlockedDomains
	if p.Name == api.ToolWebSearch {
		config.UserLocation = p.UserLocation
		return nil
	}
	config.MaxContentTokens, config.URLSources = p.MaxContentTokens, p.URLSources
	if len(config.URLSources) == 0 {
		config.URLSources = json.RawMessage("null")
	}
	return nil
}

func (p toolParams) custom(field string) (api.Tool, error) {
	if !api.IsName(p.Name) {
		return api.Tool{}, api.Invalid(field+".name", "must have 1 to 128 characters of A-Z, a-z, 0-9, _ and -")
	}
	if slices.Contains(builtIn, p.Name) {
		return api.Tool{}, api.Invalid(field+".name", "%s is the name of a built-in tool", p.Name).WithCode("tool_name_conflict")
	}
	if p.Description == "" {
		return api.Tool{}, api.Invalid(field+".description", "is required")
	}
	var schema struct {
		Type       string                     `json:"type"`
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
	}
	if err := json.Unmarshal(p.InputSchema, &schema); err != nil || schema.Type != "object" {
		return api.Tool{}, api.Invalid(field+".input_schema", `must be a JSON schema of type "object", with properties that are an object and required that is a list of names`)
	}
	return api.Tool{Type: api.ToolTypeCustom, Name: p.Name, Description: p.Description, InputSchema: p.InputSchema}, nil
}

// Check checks what tools, servers and skills must hold together.
func Check(tools []api.Tool, servers []api.MCPServer, skills []api.Skill) error {
	if err := checkSkills(skills); err != nil {
		return err
	}
	for i, s := range skills {
		if s.Version == "" {
			skills[i].Version = api.LatestVersion
		}
	}
	if err := checkServers(servers); err != nil {
		return err
	}
	return checkTools(tools, servers)
}

func checkSkills(skills []api.Skill) error {
	if len(skills) > maxSkills {
		return api.Invalid("skills", "holds %d skills, at most %d are allowed", len(skills), maxSkills)
	}
	for i, s := range skills {
		if s.SkillID == "" || s.Type != api.SkillSourceAnthropic && s.Type != api.SkillSourceCustom {
			return api.Invalid(fmt.Sprintf("skills[%d]", i), "needs a skill_id and the type anthropic or custom")
		}
	}
	return nil
}

func checkServers(servers []api.MCPServer) error {
	if len(servers) > maxServers {
		return api.Invalid("mcp_servers", "holds %d servers, at most %d are allowed", len(servers), maxServers)
	}
	names := map[string]bool{}
	for i, s := range servers {
		field := fmt.Sprintf("mcp_servers[%d]", i)
		u, err := url.Parse(s.URL)
		switch {
		case s.Type != "url":
			return api.Invalid(field+".type", "must be url")
		case s.Name == "" || utf8.RuneCountInString(s.Name) > 255:
			return api.Invalid(field+".name", "must have 1 to 255 characters")
		case names[s.Name]:
			return api.Invalid(field+".name", "%q is used twice", s.Name)
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || len(s.URL) > maxURL:
			return api.Invalid(field+".url", "must be an http or https URL of at most %d bytes", maxURL)
		}
		names[s.Name] = true
	}
	return nil
}

func checkTools(tools []api.Tool, servers []api.MCPServer) error {
	count := 0
	custom, sets := map[string]bool{}, map[string]bool{}
	for i, t := range tools {
		field := fmt.Sprintf("tools[%d]", i)
		count++
		switch {
		case t.Type == api.ToolTypeCustom && custom[t.Name]:
			return api.Invalid(field+".name", "%s is used twice", t.Name).WithCode("tool_name_conflict")
		case t.Type == api.ToolTypeCustom:
			custom[t.Name] = true
		case sets[t.Type+" "+t.MCPServerName]:
			return api.Invalid(field, "lists the same toolset a second time")
		case t.Type == api.ToolTypeMCPToolset && !slices.ContainsFunc(servers, func(s api.MCPServer) bool { return s.Name == t.MCPServerName }):
			return api.Invalid(field+".mcp_server_name", "%.80q is not the name of one of mcp_servers", t.MCPServerName)
		case t.Type == api.ToolTypeAgentToolset:
			count += len(builtIn) - 1
		}
		if t.Type != api.ToolTypeCustom {
			sets[t.Type+" "+t.MCPServerName] = true
		}
	}
	if count > maxTools {
		return api.Invalid("tools", "holds %d tools, at most %d are allowed", count, maxTools).WithCode("available_tools_limit_exceeded")
	}
	for i, s := range servers {
		if !sets[api.ToolTypeMCPToolset+" "+s.Name] {
			return api.Invalid(fmt.Sprintf("mcp_servers[%d]", i), "is not used: add an mcp_toolset with mcp_server_name %q to tools", s.Name)
		}
	}
	return nil
}

// decode decodes part of a request, naming in its error the field that has the
// wrong type.
func decode(field string, raw json.RawMessage, to any) error {
	err := json.Unmarshal(raw, to)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		field += "." + wrong.Field
	}
	if err != nil {
		return api.Invalid(field, "has the wrong type")
	}
	return nil
}
