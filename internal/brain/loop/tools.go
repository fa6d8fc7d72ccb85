package loop

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/session"
)

// toolset is what a session's model may call.
type toolset struct {
	offered  []model.Tool
	policies map[string]string // permission policy of each hands tool offered
	custom   map[string]bool
	cast     map[string]castTool // the tools of a coordinator, which the brain answers
}

// toolsOf reads an agent's tools. The web tools and MCP toolsets are not
// offered by this server yet.
func toolsOf(a api.SessionAgent) (toolset, error) {
	t := toolset{policies: map[string]string{}, custom: map[string]bool{}}
	for _, tool := range a.Tools {
		switch tool.Type {
		case api.ToolTypeCustom:
			t.custom[tool.Name] = true
			t.offered = append(t.offered, model.Tool{Name: tool.Name, Description: tool.Description, InputSchema: tool.InputSchema})
		case api.ToolTypeAgentToolset:
			t.addBuiltIn(tool)
		}
	}
	return t, t.addCast(a)
}

func (t *toolset) addBuiltIn(set api.Tool) {
	for _, tool := range handsTools {
		settings := *set.DefaultConfig
		for _, c := range set.Configs {
			if c.Name == tool.Name {
				settings = api.ToolsetDefault{Enabled: c.Enabled, PermissionPolicy: c.PermissionPolicy}
			}
		}
		if settings.Enabled {
			t.policies[tool.Name] = settings.PermissionPolicy.Type
			t.offered = append(t.offered, tool)
		}
	}
}

// handsTools are the tools that run in the hands, as the model is told of them.
var handsTools = []model.Tool{
	{
		Name:        api.ToolBash,
		Description: "Run a command in a bash session that lasts as long as this conversation: the working directory, variables and background jobs stay from call to call. Output and errors come back together. Long output is cut to its end. Nothing can be typed into a running command. Set restart to true to begin a fresh session, after one that hangs for instance.",
		InputSchema: schema(`"command":{"type":"string","description":"The command to run."},"restart":{"type":"boolean","description":"Begin a fresh session instead of running a command."},"timeout_ms":{"type":"integer","description":"Stop the command after this many milliseconds; at most two minutes."}`),
	},
	{
		Name:        api.ToolRead,
		Description: "Read a text file. Large files must be read in parts, with view_range.",
		InputSchema: schema(`"file_path":{"type":"string","description":"Path of the file, absolute or from the working directory."},"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2,"description":"First and last line to read, counted from 1; a last line of -1 reads to the end."}`, "file_path"),
	},
	{
		Name:        api.ToolWrite,
		Description: "Write a file, replacing what it held. Missing directories are made.",
		InputSchema: schema(`"file_path":{"type":"string","description":"Path of the file, absolute or from the working directory."},"content":{"type":"string","description":"All the file shall hold."}`, "file_path", "content"),
	},
	{
		Name:        api.ToolEdit,
		Description: "Replace text in a file. old_string must occur exactly once, unless replace_all is true.",
		InputSchema: schema(`"file_path":{"type":"string","description":"Path of the file, absolute or from the working directory."},"old_string":{"type":"string","description":"The text to replace, exactly as it stands."},"new_string":{"type":"string","description":"What to put in its place."},"replace_all":{"type":"boolean","description":"Replace every occurrence."}`, "file_path", "old_string", "new_string"),
	},
	{
		Name:        api.ToolGlob,
		Description: "Find files by name. ** matches directories at any depth. The newest come first.",
		InputSchema: schema(`"pattern":{"type":"string","description":"A pattern such as src/**/*.go."},"path":{"type":"string","description":"Directory to look in instead of the working directory."}`, "pattern"),
	},
	{
		Name:        api.ToolGrep,
		Description: "Find lines that match a regular expression. Answers are path:line:text.",
		InputSchema: schema(`"pattern":{"type":"string","description":"The regular expression."},"path":{"type":"string","description":"File or directory to look in instead of the working directory."}`, "pattern"),
	},
}

func schema(properties string, required ...string) json.RawMessage {
	list := ""
	if len(required) > 0 {
		list = `,"required":["` + strings.Join(required, `","`) + `"]`
	}
	return json.RawMessage(`{"type":"object","properties":{` + properties + `}` + list + `}`)
}

// preamble tells the model where it acts.
const preamble = "You act through tools in a sandbox of your own on a computer of the people you work for. Your working directory is /workspace; skills, if you have any, are in /workspace/skills. Files that you leave in /mnt/session/outputs are handed to them when you finish."

// systemPrompt tells the model who it is, and where it acts. An advisor acts
// nowhere.
func (l *Loop) systemPrompt(ctx context.Context, snap *session.Snapshot) (string, error) {
	if snap.Agent.Type == api.RosterAdvisor {
		return advice, nil
	}
	text := preamble
	mounted, err := mountedList(snap.Session.Resources)
	if err != nil {
		return "", err
	}
	if mounted != "" {
		text += " You have been given:" + mounted
	}
	if !snap.Primary {
		text += " " + calledOn
	}
	skills, err := l.skillList(ctx, snap)
	if err != nil {
		return "", err
	}
	text += skills
	if own := snap.Agent.System; own != nil && *own != "" {
		text += "\n\n" + *own
	}
	return text, nil
}

// skillList tells of the skills that the agent of a thread has, a line each. They
// are there as far as the session's agent has them too: workers bring no others.
func (l *Loop) skillList(ctx context.Context, snap *session.Snapshot) (string, error) {
	refs := slices.DeleteFunc(slices.Clone(snap.Session.Agent.Skills), func(there api.Skill) bool {
		return !slices.ContainsFunc(snap.Agent.Skills, func(own api.Skill) bool { return own.SkillID == there.SkillID })
	})
	if l.Skills == nil || len(refs) == 0 {
		return "", nil
	}
	skills, err := l.Skills(ctx, refs)
	if err != nil || len(skills) == 0 {
		return "", err
	}
	var list strings.Builder
	list.WriteString("\n\nYou have skills, directories with instructions and files for some kinds of work. Before you do what one of them is for, read its SKILL.md:")
	for _, s := range skills {
		fmt.Fprintf(&list, "\n- /workspace/skills/%s/SKILL.md: %s", s.Name, strings.Join(strings.Fields(s.Description), " "))
	}
	return list.String(), nil
}

// mountedList names what is mounted for a session, a line each.
func mountedList(resources []json.RawMessage) (string, error) {
	var list strings.Builder
	for _, raw := range resources {
		var r struct {
			Type      string        `json:"type"`
			MountPath string        `json:"mount_path"`
			URL       string        `json:"url"`
			Checkout  *api.Checkout `json:"checkout"`
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return "", fmt.Errorf("decode a resource: %w", err)
		}
		switch r.Type {
		case api.ResourceFile:
			fmt.Fprintf(&list, "\n- %s, a file to read", r.MountPath)
		case api.ResourceRepository:
			fmt.Fprintf(&list, "\n- %s, a clone of the Git repository %s", r.MountPath, r.URL)
			if c := r.Checkout; c != nil {
				fmt.Fprintf(&list, " at %s %s", c.Type, c.Name+c.SHA)
			}
		}
	}
	return list.String(), nil
}
