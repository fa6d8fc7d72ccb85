package skill

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"hearth/api"
)

// manifestName is the file that says what a skill is.
const manifestName = "SKILL.md"

// The limits of a manifest, in bytes, and of what it says, in characters.
const (
	maxManifest    = 1 << 20
	maxFrontMatter = 64 << 10
	maxName        = 64
	maxDescription = 1024
)

// manifest is what SKILL.md says of its skill.
type manifest struct{ name, description string }

// manifest reads SKILL.md. A skill that does not name itself there has the name
// of its directory.
func (b bundle) manifest() (m manifest, err error) {
	raw, err := b.readManifest()
	if err != nil {
		return m, err
	}
	m, err = parseManifest(raw)
	if err != nil {
		return m, err
	}
	if m.name == "" {
		m.name = b.directory
	}
	if !isSlug(m.name) {
		return m, api.Invalid(manifestName, "the name %.100q must have 1 to %d characters of a-z and 0-9, in words joined by single hyphens, as in quarterly-report", m.name, maxName)
	}
	return m, nil
}

func (b bundle) readManifest() ([]byte, error) {
	for _, e := range b.files {
		if e.name != manifestName {
			continue
		}
		var raw bytes.Buffer
		if _, err := e.copy(&limitWriter{&raw, maxManifest}, MaxSize); err != nil {
			return nil, err
		}
		return raw.Bytes(), nil
	}
	for _, e := range b.files {
		if strings.EqualFold(e.name, manifestName) {
			return nil, api.Invalid(field, "%s must be called %s", e.name, manifestName)
		}
	}
	return nil, api.Invalid(field, "must include %s/%s", b.directory, manifestName)
}

// limitWriter refuses more than left bytes.
type limitWriter struct {
	io.Writer
	left int
}

func (w *limitWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, api.Invalid(manifestName, "has more than %d bytes", maxManifest)
	}
	return w.Writer.Write(p)
}

// parseManifest reads the front matter: YAML between two lines of three hyphens.
func parseManifest(raw []byte) (m manifest, err error) {
	if !utf8.Valid(raw) {
		return m, api.Invalid(manifestName, "is not valid UTF-8")
	}
	text := strings.ReplaceAll(strings.TrimPrefix(string(raw), "\ufeff"), "\r\n", "\n")
	rest, ok := strings.CutPrefix(text, "---\n")
	if !ok {
		return m, api.Invalid(manifestName, "must begin with a line --- and, up to the next such line, the name and description of the skill in YAML")
	}
	front, _, ok := strings.Cut("\n"+rest+"\n", "\n---\n")
	switch {
	case !ok:
		return m, api.Invalid(manifestName, "has no second line --- that ends the front matter")
	case len(front) > maxFrontMatter:
		return m, api.Invalid(manifestName, "has a front matter of %d bytes, at most %d are allowed", len(front), maxFrontMatter)
	}
	// As a tree, in which an alias is not yet what it stands for.
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(front), &document); err != nil {
		return m, api.Invalid(manifestName, "the front matter is not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return m, api.Invalid(manifestName, "the front matter must be a YAML mapping with name and description")
	}
	if m.name, err = textOf(document.Content[0], "name"); err != nil {
		return m, err
	}
	if m.description, err = textOf(document.Content[0], "description"); err != nil {
		return m, err
	}
	return m, checkDescription(m.description)
}

// textOf is the text that a key of a mapping has; "" if the key is not there.
func textOf(mapping *yaml.Node, key string) (text string, err error) {
	found := false
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		k, v := mapping.Content[i], mapping.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Value != key {
			continue
		}
		switch {
		case found:
			return "", api.Invalid(manifestName, "%s is given twice", key)
		case v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str":
			return "", api.Invalid(manifestName, "%s must be text; put it in quotes if it looks like something else", key)
		}
		text, found = strings.TrimSpace(v.Value), true
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
		return "", api.Invalid(manifestName, "%s has a control character", key)
	}
	return text, nil
}

func checkDescription(text string) error {
	n := utf8.RuneCountInString(text)
	switch {
	case n == 0:
		return api.Invalid(manifestName, "description is required: what the skill does, and when it is to be used")
	case n > maxDescription:
		return api.Invalid(manifestName, "description has %d characters, at most %d are allowed", n, maxDescription)
	}
	if tag := findTag(text); tag != "" {
		return api.Invalid(manifestName, "description must not have XML tags, such as %.60s", tag)
	}
	return nil
}

// findTag finds something that looks like an XML tag. Models are told of skills
// by their descriptions, and of other things in tags.
func findTag(text string) string {
	for {
		_, rest, ok := strings.Cut(text, "<")
		if !ok {
			return ""
		}
		name := strings.TrimPrefix(rest, "/")
		inside, _, closed := strings.Cut(name, ">")
		if closed && inside != "" && unicode.IsLetter([]rune(inside)[0]) && !strings.Contains(inside, "<") {
			return fmt.Sprintf("<%s>", rest[:len(rest)-len(name)+len(inside)])
		}
		text = rest
	}
}

// isSlug tells whether a text is a name as skills have them.
func isSlug(text string) bool {
	if text == "" || len(text) > maxName {
		return false
	}
	for word := range strings.SplitSeq(text, "-") {
		if word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return false
		}
	}
	return true
}
