package api

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/test/fakemodel"
	"hearth/test/run"
)

// skillFiles are the files of a skill as the SDK sends them.
func skillFiles(name, description string) []io.Reader {
	return []io.Reader{
		anthropic.File(strings.NewReader("---\nname: "+name+"\ndescription: "+description+"\n---\nRun bin/run.\n"), name+"/SKILL.md", "text/markdown"),
		anthropic.File(strings.NewReader("#!/bin/sh\necho ran\n"), name+"/bin/run", "application/octet-stream"),
	}
}

// TestSkills calls every method of skills, beta and not, and has the model told
// of one.
func TestSkills(t *testing.T) {
	model := fakemodel.Start(t)
	model.Respond(func(*fakemodel.Request) fakemodel.Turn { return fakemodel.Say("I see") })
	each(t, func(t *testing.T, s *server) {
		skills, ctx := s.SDK.Beta.Skills, t.Context()
		made, err := skills.New(ctx, anthropic.BetaSkillNewParams{Files: skillFiles("quarterly-report", "Writes a report."), DisplayName: anthropic.String("Quarterly report")})
		must(t, err)
		if made.DisplayName != "Quarterly report" || made.Source.Type != anthropic.BetaSkillSourceTypeCustom {
			t.Errorf("made %s", made.RawJSON())
		}
		found, err := skills.Get(ctx, made.ID, anthropic.BetaSkillGetParams{})
		must(t, err)
		if found.LatestVersionID != made.LatestVersionID {
			t.Errorf("found %s", found.RawJSON())
		}
		_, err = skills.New(ctx, anthropic.BetaSkillNewParams{Files: skillFiles("quarterly-report", "Again.")})
		if wire := (*anthropic.Error)(nil); !errors.As(err, &wire) || wire.StatusCode != 409 {
			t.Errorf("a name that is taken: %v", err)
		}
		plain, err := s.SDK.Skills.New(ctx, anthropic.SkillNewParams{Files: skillFiles("plain", "Is plain.")})
		must(t, err)
		listed := []string{}
		for all := skills.ListAutoPaging(ctx, anthropic.BetaSkillListParams{Limit: anthropic.Int(1), Source: anthropic.String("custom")}); all.Next(); {
			listed = append(listed, all.Current().ID)
		}
		if strings.Join(listed, " ") != plain.ID+" "+made.ID {
			t.Errorf("listed %v", listed)
		}
		skillVersions(t, s, made)
		s.toldOfSkill(t, model, made.ID)
		gone, err := skills.Delete(ctx, made.ID, anthropic.BetaSkillDeleteParams{})
		must(t, err)
		if gone.ID != made.ID || gone.Type != "skill_deleted" {
			t.Errorf("deleted %s", gone.RawJSON())
		}
		s.typeScript("skills.mjs")
	}, "HEARTH_MODEL_API_KEY="+fakemodel.Key, "--model-base-url", model.URL())
}

func skillVersions(t *testing.T, s *server, made *anthropic.BetaSkill) {
	t.Helper()
	versions, ctx := s.SDK.Beta.Skills.Versions, t.Context()
	second, err := versions.New(ctx, made.ID, anthropic.BetaSkillVersionNewParams{Files: skillFiles("quarterly-report", "Writes a better report.")})
	must(t, err)
	latest, err := versions.Get(ctx, "latest", anthropic.BetaSkillVersionGetParams{SkillID: made.ID})
	must(t, err)
	if latest.ID != second.ID || latest.Name != "quarterly-report" || latest.Description != "Writes a better report." {
		t.Errorf("the latest is %s", latest.RawJSON())
	}
	n := 0
	for all := versions.ListAutoPaging(ctx, made.ID, anthropic.BetaSkillVersionListParams{Limit: anthropic.Int(1)}); all.Next(); n++ {
		if want := []string{second.ID, made.LatestVersionID}[n]; all.Current().ID != want {
			t.Errorf("version %d is %s, want %s", n, all.Current().ID, want)
		}
	}
	response, err := versions.Download(ctx, second.ID, anthropic.BetaSkillVersionDownloadParams{SkillID: made.ID})
	must(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must(t, err)
	archive, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	must(t, err)
	if len(archive.File) != 2 || archive.File[0].Name != "quarterly-report/SKILL.md" || archive.File[1].Name != "quarterly-report/bin/run" {
		t.Errorf("the archive holds %v", archive.File)
	}
	gone, err := versions.Delete(ctx, made.LatestVersionID, anthropic.BetaSkillVersionDeleteParams{SkillID: made.ID})
	must(t, err)
	if gone.ID != made.LatestVersionID || gone.Type != "skill_version_deleted" {
		t.Errorf("deleted %s", gone.RawJSON())
	}
}

// toldOfSkill runs a session of an agent that has the skill.
func (s *server) toldOfSkill(t *testing.T, model *fakemodel.Server, skillID string) {
	t.Helper()
	ctx := t.Context()
	agent, err := s.SDK.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{
		Name: t.Name(), Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "fake-1"},
		Skills: []anthropic.BetaManagedAgentsSkillParamsUnion{{OfCustom: &anthropic.BetaManagedAgentsCustomSkillParams{SkillID: skillID, Type: anthropic.BetaManagedAgentsCustomSkillParamsTypeCustom}}},
	})
	must(t, err)
	environment, err := s.SDK.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{Name: "here", Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}}})
	must(t, err)
	session, err := s.SDK.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)}, EnvironmentID: environment.ID,
	})
	must(t, err)
	if version := session.Agent.Skills[0].Version; !strings.HasPrefix(version, "skillver_") {
		t.Errorf("the session has the skill's version %s", version)
	}
	_, err = s.SDK.Beta.Sessions.Events.Send(ctx, session.ID, anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
		Type:    anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
		Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: "for " + session.ID}}},
	}}}})
	must(t, err)
	waiting, cancel := context.WithTimeout(ctx, run.Patience)
	defer cancel()
	for {
		asked, err := model.Next(waiting)
		must(t, err)
		if asked.LastText() != "for "+session.ID {
			continue // the other database's
		}
		if system := asked.System[0].Text; !strings.Contains(system, "\n- /workspace/skills/quarterly-report/SKILL.md: Writes a better report.") {
			t.Errorf("the model is told %q", system)
		}
		return
	}
}
