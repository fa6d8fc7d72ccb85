package main

import (
	"bytes"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands are all that a person can find.
func commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			all = append(all, commands(c)...)
		}
	}
	return all
}

func TestEveryCommandTeaches(t *testing.T) {
	t.Parallel()
	for _, cmd := range commands(newRoot()) {
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			root, out := newRoot(), &bytes.Buffer{}
			root.SetOut(out)
			root.SetArgs(append(strings.Fields(cmd.CommandPath())[1:], "--help"))
			if err := root.Execute(); err != nil {
				t.Fatal(err)
			}
			help := out.String()
			for _, part := range []string{cmd.Short, "Usage:", cmd.CommandPath()} {
				if part == "" || !strings.Contains(help, part) && cmd.Long == "" {
					t.Errorf("the help lacks %q:\n%s", part, help)
				}
			}
			if !cmd.HasSubCommands() && !strings.Contains(help, "Examples:\n") {
				t.Errorf("the help has no example:\n%s", help)
			}
			for problem := range mistakes(cmd.Example) {
				t.Errorf("its example %s", problem)
			}
			cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if f.Usage == "" || !strings.Contains(help, "--"+f.Name) {
					t.Errorf("--%s is not explained", f.Name)
				}
			})
		})
	}
}

// samples are values that differ from every default, by the type of the flag.
var samples = map[string]string{"string": "sample", "stringArray": "sample", "stringSlice": "sample", "int": "7", "float64": "2.5", "bool": "true", "duration": "11s", "size": "3GiB", "limits": "agent_1=memory:1GiB", "grants": "admin=ops;viewer@wrkspc_1=staff"}

func TestEveryFlagCanComeFromTheEnvironment(t *testing.T) {
	for _, cmd := range commands(newRoot()) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			t.Run(cmd.CommandPath()+" --"+f.Name, func(t *testing.T) {
				sample := samples[f.Value.Type()]
				if c, ok := f.Value.(choice); ok {
					sample = c.allowed[len(c.allowed)-1]
				}
				want := sample
				if f.Value.Type() == "stringArray" || f.Value.Type() == "stringSlice" {
					want = "[" + sample + "]" // a variable holds one of them
				}
				t.Setenv(environmentName(f.Name), sample)
				if err := flagsFromEnvironment(cmd.Flags()); err != nil || f.Value.String() != want {
					t.Fatalf("%q, %v; want %q", f.Value, err, want)
				}
				if err := f.Value.Set("no such value"); err == nil {
					return // it takes any text
				}
				f.Changed = false
				t.Setenv(environmentName(f.Name), "no such value")
				if err := flagsFromEnvironment(cmd.Flags()); err == nil || !strings.Contains(err.Error(), environmentName(f.Name)) {
					t.Fatalf("a bad value brought %v, which should name %s", err, environmentName(f.Name))
				}
			})
		})
	}
}

// documents are what a person reads before they try.
var documents = []string{"README.md", "docs/operating.md", "docs/sandboxes.md", "docs/divergences.md", "docs/architecture.md", "docs/skills.md", "docs/vaults.md", "docs/webhooks.md", "docs/deployments.md"}

func TestWhatTheDocumentsMentionExists(t *testing.T) {
	t.Parallel()
	for _, name := range documents {
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("..", "..", name))
			if err != nil {
				t.Fatal(err)
			}
			mentioned := 0
			for _, code := range codeIn(string(raw)) {
				mentioned += strings.Count(code, "hearth") + strings.Count(code, "--") + strings.Count(code, "HEARTH_")
				for problem := range mistakes(code) {
					t.Errorf("%s: %q %s", name, code, problem)
				}
			}
			if mentioned == 0 {
				t.Errorf("no command was found in it")
			}
		})
	}
}

// TestMistakesAreFound keeps the test above honest.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	for _, code := range []string{
		"hearth stats env_…", "hearth agents fetch", "hearth worker go", "./hearth serve --database x", "--no-such-flag", "HEARTH_NOTHING=1 hearth dev",
	} {
		if len(slices.Collect(mistakes(code))) == 0 {
			t.Errorf("%q passes for right", code)
		}
	}
}

var (
	indented = regexp.MustCompile(`(?m)^(?: {4}|\t).*$`)
	inline   = regexp.MustCompile("`[^`\n]+`")
	call     = regexp.MustCompile(`(?:^|[\s/(])hearth((?: [^\s|;>&#)]+)*)`)
	word     = regexp.MustCompile(`^[a-z]+$`)
	anyFlag  = regexp.MustCompile(`(?:^|\s)--([a-z][a-z-]*)`)
	variable = regexp.MustCompile(`HEARTH_[A-Z_]+[A-Z]`)
)

// codeIn is what a document shows as code.
func codeIn(text string) []string {
	text = strings.ReplaceAll(text, "\\\n", " ") // a command over two lines
	code := indented.FindAllString(text, -1)
	for _, quoted := range inline.FindAllString(text, -1) {
		code = append(code, strings.Trim(quoted, "`"))
	}
	return code
}

// secrets come from the environment only.
var secrets = []string{"HEARTH_API_KEY", "HEARTH_MODEL_API_KEY", "HEARTH_ENVIRONMENT_KEY", "HEARTH_WEBHOOK_SECRET"}

// mistakes yields what in a piece of code there is no command, flag or variable for.
func mistakes(code string) iter.Seq[string] {
	root := newRoot()
	root.InitDefaultHelpCmd()
	flags := map[string]bool{}
	variables := slices.Clone(secrets)
	for _, cmd := range commands(root) {
		cmd.InitDefaultHelpFlag()
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			flags[f.Name] = true
			variables = append(variables, environmentName(f.Name))
		})
	}
	return func(yield func(string) bool) {
		for _, found := range call.FindAllStringSubmatch(code, -1) {
			cmd, rest := descend(root, strings.Fields(found[1]))
			if len(rest) > 0 && word.MatchString(rest[0]) && cmd.Args(cmd, rest[:1]) != nil && cmd.HasSubCommands() {
				if !yield("names no command: " + cmd.CommandPath() + " " + rest[0]) {
					return
				}
			}
			for _, argument := range rest {
				if argument == "--" {
					break // what follows is somebody else's
				}
				name, isFlag := strings.CutPrefix(argument, "--")
				name, _, _ = strings.Cut(name, "=")
				if isFlag && cmd.Flags().Lookup(name) == nil && !yield("has a flag "+cmd.CommandPath()+" does not: "+argument) {
					return
				}
			}
		}
		for _, found := range anyFlag.FindAllStringSubmatch(code, -1) {
			if strings.Contains(code, "hearth") || !strings.HasPrefix(code, "--") || flags[found[1]] {
				continue
			}
			if !yield("is no command's flag") {
				return
			}
		}
		for _, name := range variable.FindAllString(code, -1) {
			if !slices.Contains(variables, name) && !yield("names a variable nothing reads: "+name) {
				return
			}
		}
	}
}

// descend follows words down the tree of commands as far as they go.
func descend(cmd *cobra.Command, words []string) (*cobra.Command, []string) {
	for len(words) > 0 {
		i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == words[0] || c.HasAlias(words[0]) })
		if i < 0 {
			break
		}
		cmd, words = cmd.Commands()[i], words[1:]
	}
	return cmd, words
}
