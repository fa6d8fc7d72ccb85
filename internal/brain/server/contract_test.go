package server

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"hearth/api"
)

// contract is what the OpenAPI document says of requests.
type contract struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	Parameters  []parameterOf `json:"parameters"`
	RequestBody struct {
		Content map[string]struct {
			Schema *schema `json:"schema"`
		} `json:"content"`
	} `json:"requestBody"`
}

type parameterOf struct {
	Name   string  `json:"name"`
	In     string  `json:"in"`
	Schema *schema `json:"schema"`
}

type schema struct {
	Ref           string             `json:"$ref"`
	AnyOf         []*schema          `json:"anyOf"`
	OneOf         []*schema          `json:"oneOf"`
	Type          words              `json:"type"`
	Enum          []any              `json:"enum"`
	Const         any                `json:"const"`
	Format        string             `json:"format"`
	Properties    map[string]*schema `json:"properties"`
	Required      []string           `json:"required"`
	Items         *schema            `json:"items"`
	Additional    json.RawMessage    `json:"additionalProperties"`
	Discriminator struct {
		PropertyName string `json:"propertyName"`
	} `json:"discriminator"`
}

// words is one word or several.
type words []string

func (w *words) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		*w = words{""}
		return json.Unmarshal(raw, &(*w)[0])
	}
	return json.Unmarshal(raw, (*[]string)(w))
}

func readContract(t *testing.T) *contract {
	t.Helper()
	var c contract
	must(t, json.Unmarshal(api.OpenAPI, &c))
	return &c
}

// variants are what a value may be, without any choice left.
func (c *contract) variants(s *schema) []*schema {
	switch {
	case s == nil:
		return nil
	case s.Ref != "":
		return c.variants(c.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")])
	case s.AnyOf == nil && s.OneOf == nil:
		return []*schema{s}
	}
	var all []*schema
	for _, one := range slices.Concat(s.AnyOf, s.OneOf) {
		all = append(all, c.variants(one)...)
	}
	return all
}

// takes are the JSON types that a value may have; all of them if nothing is said.
func (c *contract) takes(s *schema) map[string]bool {
	types := map[string]bool{}
	for _, v := range c.variants(s) {
		for _, t := range v.Type {
			if t == "integer" {
				t = "number"
			}
			types[t] = true
		}
		if len(v.Type) == 0 {
			for t := range samples {
				types[t] = true
			}
		}
	}
	if len(types) == 0 {
		for t := range samples {
			types[t] = true
		}
	}
	return types
}

// choices are the only words that a value may be; none if it may be others.
func (c *contract) choices(s *schema) (all []string) {
	for _, v := range c.variants(s) {
		switch word, isConst := v.Const.(string); {
		case isConst:
			all = append(all, word)
		case v.Enum != nil:
			for _, e := range v.Enum {
				if word, ok := e.(string); ok {
					all = append(all, word)
				}
			}
		case slices.Contains(v.Type, "string"):
			return nil
		}
	}
	return all
}

// isMap tells whether a value is an object of any keys.
func (c *contract) isMap(s *schema) bool {
	return slices.ContainsFunc(c.variants(s), func(v *schema) bool { return len(v.Additional) > 0 })
}

// of is the variant that a value is of: one of its JSON type and, for an object,
// whose constants it has.
func (c *contract) of(s *schema, v any) *schema {
	for _, one := range c.variants(s) {
		if len(one.Type) > 0 && !slices.Contains(one.Type, typeOf(v)) {
			continue
		}
		o, isObject := v.(object)
		fits := true
		for name, p := range one.Properties {
			word, isConst := p.Const.(string)
			_, there := o[name]
			if isConst && isObject && (there || slices.Contains(one.Required, name)) && o[name] != word {
				fits = false
			}
		}
		if fits {
			return one
		}
	}
	return nil
}

func typeOf(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case float64:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case object:
		return "object"
	}
	return "null"
}
