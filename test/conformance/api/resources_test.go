package api

import (
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

func TestResources(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		ctx, g, resources := t.Context(), s.ground(), s.SDK.Beta.Sessions.Resources
		file, err := s.SDK.Beta.Files.Upload(ctx, anthropic.BetaFileUploadParams{File: anthropic.File(strings.NewReader("a,b\n"), "data.csv", "text/csv")})
		must(t, err)
		session, err := s.SDK.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
			Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(g.agentID)}, EnvironmentID: g.environmentID,
			Resources: []anthropic.BetaSessionNewParamsResourceUnion{{OfGitHubRepository: &anthropic.BetaManagedAgentsGitHubRepositoryResourceParams{
				Type: anthropic.BetaManagedAgentsGitHubRepositoryResourceParamsTypeGitHubRepository, URL: "https://git.example.com/team/tool", AuthorizationToken: "a-token-of-the-test",
			}}},
		})
		must(t, err)
		added, err := resources.Add(ctx, session.ID, anthropic.BetaSessionResourceAddParams{BetaManagedAgentsFileResourceParams: anthropic.BetaManagedAgentsFileResourceParams{
			FileID: file.ID, Type: anthropic.BetaManagedAgentsFileResourceParamsTypeFile, MountPath: anthropic.String("/mnt/session/uploads/in.csv"),
		}})
		must(t, err)
		found, err := resources.Get(ctx, added.ID, anthropic.BetaSessionResourceGetParams{SessionID: session.ID})
		if err != nil || found.FileID != file.ID || found.MountPath != "/mnt/session/uploads/in.csv" {
			t.Errorf("found %s: %v", found.RawJSON(), err)
		}
		list := resources.ListAutoPaging(ctx, session.ID, anthropic.BetaSessionResourceListParams{Limit: anthropic.Int(1)})
		var repository string
		n := 0
		for ; list.Next(); n++ {
			if r := list.Current(); r.Type == "github_repository" {
				repository = r.ID
			}
			if strings.Contains(list.Current().RawJSON(), "a-token-of-the-test") {
				t.Errorf("a list shows a token: %s", list.Current().RawJSON())
			}
		}
		if list.Err() != nil || n != 2 || repository == "" {
			t.Fatalf("listed %d: %v", n, list.Err())
		}
		if turned, err := resources.Update(ctx, repository, anthropic.BetaSessionResourceUpdateParams{SessionID: session.ID, AuthorizationToken: "another-token"}); err != nil || turned.ID != repository {
			t.Errorf("updated: %v", err)
		}
		if gone, err := resources.Delete(ctx, added.ID, anthropic.BetaSessionResourceDeleteParams{SessionID: session.ID}); err != nil || gone.ID != added.ID {
			t.Errorf("deleted: %v", err)
		}
		s.typeScript("resources.mjs", s.ground().env()...)
	})
}
