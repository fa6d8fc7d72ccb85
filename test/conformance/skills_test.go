package conformance

import (
	"io"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/test/run"
)

// TestSkills: a skill that was uploaded is where the agent is told it is, in its
// version, whoever serves the session.
func TestSkills(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for _, kind := range []string{"official Go", "official TypeScript", "hearth process", "hearth namespace"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, b, "skills for "+kind)
			workers[kind](t, s, t.TempDir())
			name := strings.ReplaceAll("for-"+strings.ToLower(kind), " ", "-")
			skills := b.Client.SDK().Beta.Skills
			made, err := skills.New(t.Context(), anthropic.BetaSkillNewParams{Files: skillOf(name, "first")})
			if err != nil {
				t.Fatal(err)
			}
			c := s.openWith(t, made.ID)
			if _, err := skills.Versions.New(t.Context(), made.ID, anthropic.BetaSkillVersionNewParams{Files: skillOf(name, "second")}); err != nil {
				t.Fatal(err)
			}
			look := "$ cat skills/" + name + "/SKILL.md skills/" + name + "/data/deep/words\nread skills/" + name + "/data/deep/words"
			for _, want := range []string{"first", "second"} { // a session keeps what was the latest when it began
				c.say(look)
				c.expect(c.end(1), "---\nname: "+name+"\ndescription: Is "+want+".\n---\n"+want, want)
				c = s.openWith(t, made.ID)
			}
		})
	}
}

func skillOf(name, word string) []io.Reader {
	return []io.Reader{
		anthropic.File(strings.NewReader("---\nname: "+name+"\ndescription: Is "+word+".\n---\n"), name+"/SKILL.md", "text/markdown"),
		anthropic.File(strings.NewReader(word), name+"/data/deep/words", "text/plain"),
	}
}

// openWith makes a session of an agent that has the latest version of a skill.
func (s *site) openWith(t *testing.T, skillID string) *chat {
	t.Helper()
	sdk := s.Client.SDK()
	agent, err := sdk.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
		Name: t.Name(), Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "rehearsal"},
		Tools:  []anthropic.BetaAgentNewParamsToolUnion{toolset(api.PolicyAlwaysAllow)},
		Skills: []anthropic.BetaManagedAgentsSkillParamsUnion{{OfCustom: &anthropic.BetaManagedAgentsCustomSkillParams{SkillID: skillID, Type: anthropic.BetaManagedAgentsCustomSkillParamsTypeCustom}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := sdk.Beta.Sessions.New(t.Context(), anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)}, EnvironmentID: s.environmentID,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &chat{t, sdk, session.ID}
}
