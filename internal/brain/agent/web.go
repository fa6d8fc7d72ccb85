package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"hearth/api"
)

// webParams are the settings that only the web tools have.
type webParams struct {
	AllowedDomains   []string                          `json:"allowed_domains"`
	BlockedDomains   []string                          `json:"blocked_domains"`
	MaxContentTokens *int64                            `json:"max_content_tokens"`
	URLSources       api.Optional[urlSourcesParams]    `json:"url_sources"`
	UserLocation     api.Optional[api.WebUserLocation] `json:"user_location"`
}

// The limits of the web tools.
const (
	maxDomains   = 64
	maxDomain    = 255 // characters
	maxToolNames = 128 // in a list of url_sources
	maxPlace     = 255 // characters of each part of user_location
)

// web checks the settings of the web tools and lays them down in a tool's
// config. Custom are the names of the agent's custom tools.
func (p toolConfigParams) web(field string, config *api.ToolConfig, custom []string) error {
	isFetch, isSearch := config.Type == api.ToolWebFetch, config.Type == api.ToolWebSearch
	for _, setting := range []struct {
		name           string
		given, belongs bool
	}{
		{"allowed_domains", p.AllowedDomains != nil, isFetch || isSearch}, {"blocked_domains", p.BlockedDomains != nil, isFetch || isSearch},
		{"max_content_tokens", p.MaxContentTokens != nil, isFetch}, {"url_sources", p.URLSources.Given(), isFetch}, {"user_location", p.UserLocation.Given(), isSearch},
	} {
		if setting.given && !setting.belongs {
			return api.Invalid(field+"."+setting.name, "is no setting of %.80q", p.Name)
		}
	}
	if p.AllowedDomains != nil && p.BlockedDomains != nil {
		return api.Invalid(field, "allowed_domains and blocked_domains exclude each other")
	}
	if err := checkDomains(field+".allowed_domains", p.AllowedDomains, isSearch); err != nil {
		return err
	}
	if err := checkDomains(field+".blocked_domains", p.BlockedDomains, isSearch); err != nil {
		return err
	}
	config.AllowedDomains, config.BlockedDomains = p.AllowedDomains, p.BlockedDomains
	switch {
	case isSearch && p.UserLocation.Given():
		return p.locate(field+".user_location", config)
	case isFetch:
		return p.fetch(field, config, custom)
	}
	return nil
}

func (p webParams) fetch(field string, config *api.ToolConfig, custom []string) error {
	if n := p.MaxContentTokens; n != nil && *n < 1 {
		return api.Invalid(field+".max_content_tokens", "must be at least 1")
	}
	config.MaxContentTokens, config.URLSources = p.MaxContentTokens, json.RawMessage("null")
	if !p.URLSources.Given() {
		return nil
	}
	sources, err := p.URLSources.Value.sources(field+".url_sources", custom)
	if err != nil {
		return err
	}
	config.URLSources, err = json.Marshal(sources)
	return err
}

func (p webParams) locate(field string, config *api.ToolConfig) (err error) {
	l := p.UserLocation.Value
	if l.Type != "approximate" {
		return api.Invalid(field+".type", "must be approximate")
	}
	if c := l.Country; c != nil && (len(*c) != 2 || strings.Trim(*c, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "") {
		return api.Invalid(field+".country", "must be a country's two letters in capitals, such as DE")
	}
	for name, part := range map[string]*string{"city": l.City, "region": l.Region, "timezone": l.Timezone} {
		if part != nil && (*part == "" || len([]rune(*part)) > maxPlace) {
			return api.Invalid(field+"."+name, "must have 1 to %d characters", maxPlace)
		}
	}
	config.UserLocation, err = json.Marshal(l)
	return err
}

// checkDomains checks a list of host names, which may be followed by a path
// where paths are told apart.
func checkDomains(field string, domains []string, withPath bool) error {
	if domains != nil && (len(domains) == 0 || len(domains) > maxDomains) {
		return api.Invalid(field, "must hold 1 to %d domains; leave it out for no such limit", maxDomains)
	}
	for i, d := range domains {
		host, path, _ := strings.Cut(d, "/")
		if len(d) > maxDomain || path != "" && !withPath || strings.ContainsAny(path, " ?#*") || strings.HasSuffix(d, "/") && !withPath || !isPublicHost(host) {
			return api.Invalid(fmt.Sprintf("%s[%d]", field, i), "%.80q is not a public host name such as docs.example.com, without scheme, port or wildcard", d)
		}
	}
	return nil
}

// isPublicHost tells whether a name could be that of a host on the internet.
func isPublicHost(host string) bool {
	labels := strings.Split(strings.ToLower(host), ".")
	last := labels[len(labels)-1]
	if len(labels) < 2 || slices.Contains([]string{"localhost", "local", "internal"}, last) || strings.Trim(last, "0123456789") == "" {
		return false
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// urlSourcesParams says which sources give web_fetch addresses it may fetch.
type urlSourcesParams struct {
	ClientToolResults api.Optional[json.RawMessage] `json:"client_tool_results"`
	ServerToolResults api.Optional[json.RawMessage] `json:"server_tool_results"`
	UserInput         api.Optional[json.RawMessage] `json:"user_input"`
}

func (p urlSourcesParams) sources(field string, custom []string) (s api.WebURLSources, err error) {
	none := 0
	for _, part := range []struct {
		name  string
		from  api.Optional[json.RawMessage]
		to    **api.WebURLFilter
		tools []string
	}{
		{"client_tool_results", p.ClientToolResults, &s.ClientToolResults, custom},
		{"server_tool_results", p.ServerToolResults, &s.ServerToolResults, []string{api.ToolWebSearch, api.ToolWebFetch}},
		{"user_input", p.UserInput, &s.UserInput, nil},
	} {
		if !part.from.Given() {
			continue
		}
		filter, err := parseFilter(field+"."+part.name, part.from.Value, part.tools, part.name != "user_input")
		if err != nil {
			return s, err
		}
		if *part.to = &filter; filter.Type == "none" {
			none++
		}
	}
	if none == 3 {
		return s, api.Invalid(field, "leaves web_fetch nothing to fetch: disable the tool instead")
	}
	return s, nil
}

// parseFilter reads one source: a word, or an object with it as type.
func parseFilter(field string, raw json.RawMessage, tools []string, lists bool) (api.WebURLFilter, error) {
	var f api.WebURLFilter
	if json.Unmarshal(raw, &f.Type) != nil && json.Unmarshal(raw, &f) != nil {
		return f, api.Invalid(field, "must be all or none, or an object with a type")
	}
	switch {
	case f.Type == "all" || f.Type == "none":
		f.Tools = nil
		return f, nil
	case !lists:
		return f, api.Invalid(field, "must be all or none")
	case f.Type != "only" && f.Type != "except":
		return f, api.Invalid(field, "must be all, none, only or except")
	case len(f.Tools) == 0 || len(f.Tools) > maxToolNames:
		return f, api.Invalid(field+".tools", "must hold 1 to %d tools", maxToolNames)
	}
	seen := map[string]bool{}
	for i, t := range f.Tools {
		at := fmt.Sprintf("%s.tools[%d]", field, i)
		switch {
		case t.Type != "tool_reference":
			return f, api.Invalid(at+".type", "must be tool_reference")
		case !slices.Contains(tools, t.Name):
			return f, api.Invalid(at+".name", "%.80q is not one of the tools it may name", t.Name)
		case seen[t.Name]:
			return f, api.Invalid(at+".name", "%q is named twice", t.Name)
		}
		seen[t.Name] = true
	}
	return f, nil
}
