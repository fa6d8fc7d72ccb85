package api

import (
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/test/fakeoauth"
)

func TestVaults(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		vaults := s.SDK.Beta.Vaults
		made, err := vaults.New(t.Context(), anthropic.BetaVaultNewParams{DisplayName: "of the team", Metadata: map[string]string{"team": "risk"}})
		must(t, err)
		changed, err := vaults.Update(t.Context(), made.ID, anthropic.BetaVaultUpdateParams{DisplayName: anthropic.String("of all")})
		must(t, err)
		found, err := vaults.Get(t.Context(), made.ID, anthropic.BetaVaultGetParams{})
		must(t, err)
		if found.DisplayName != "of all" || found.Metadata["team"] != "risk" || !found.UpdatedAt.Equal(changed.UpdatedAt) {
			t.Errorf("found %s", found.RawJSON())
		}
		credentials(t, s, made.ID)
		if archived, err := vaults.Archive(t.Context(), made.ID, anthropic.BetaVaultArchiveParams{}); err != nil || archived.ArchivedAt.IsZero() {
			t.Errorf("archived %+v: %v", archived, err)
		}
		all := vaults.ListAutoPaging(t.Context(), anthropic.BetaVaultListParams{IncludeArchived: anthropic.Bool(true), Limit: anthropic.Int(1)})
		if !all.Next() || all.Current().ID != made.ID || all.Next() {
			t.Errorf("listed %+v: %v", all.Current(), all.Err())
		}
		if gone, err := vaults.Delete(t.Context(), made.ID, anthropic.BetaVaultDeleteParams{}); err != nil || gone.ID != made.ID {
			t.Errorf("deleted %+v: %v", gone, err)
		}
		server := fakeoauth.New(t, "access-zero", "refresh-zero")
		s.typeScript("vaults.mjs", "MCP_URL="+server.MCP, "TOKEN_URL="+server.Token)
	}, "--allow-private-outbound", "127.0.0.1")
}

func credentials(t *testing.T, s *server, vaultID string) {
	t.Helper()
	credentials := s.SDK.Beta.Vaults.Credentials
	server := fakeoauth.New(t, "access-zero", "refresh-zero")
	server.Secret = "the secret"
	oauth, err := credentials.New(t.Context(), vaultID, anthropic.BetaVaultCredentialNewParams{
		DisplayName: anthropic.String("OAuth"),
		Auth: anthropic.BetaVaultCredentialNewParamsAuthUnion{OfMCPOAuth: &anthropic.BetaManagedAgentsMCPOAuthCreateParams{
			AccessToken: "too-old", MCPServerURL: server.MCP, Type: "mcp_oauth", ExpiresAt: anthropic.Time(time.Now().Add(time.Hour)),
			Refresh: anthropic.BetaManagedAgentsMCPOAuthRefreshParams{
				ClientID: server.ClientID, RefreshToken: "refresh-zero", TokenEndpoint: server.Token,
				TokenEndpointAuth: anthropic.BetaManagedAgentsMCPOAuthRefreshParamsTokenEndpointAuthUnion{
					OfClientSecretBasic: &anthropic.BetaManagedAgentsTokenEndpointAuthBasicParam{ClientSecret: server.Secret, Type: "client_secret_basic"},
				},
			},
		}},
	})
	must(t, err)
	validated, err := credentials.MCPOAuthValidate(t.Context(), oauth.ID, anthropic.BetaVaultCredentialMCPOAuthValidateParams{VaultID: vaultID})
	must(t, err)
	if validated.Status != "valid" || validated.Refresh.Status != "succeeded" || !validated.HasRefreshToken {
		t.Errorf("validated %s", validated.RawJSON())
	}
	variable, err := credentials.New(t.Context(), vaultID, anthropic.BetaVaultCredentialNewParams{
		Auth: anthropic.BetaVaultCredentialNewParamsAuthUnion{OfEnvironmentVariable: &anthropic.BetaManagedAgentsEnvironmentVariableCreateParams{
			SecretName: "API_KEY", SecretValue: "secret", Type: "environment_variable",
			Networking: anthropic.BetaManagedAgentsCredentialNetworkingParamsUnion{OfLimited: &anthropic.BetaManagedAgentsLimitedCredentialNetworkingParams{
				AllowedHosts: []string{"*.example.com"}, Type: "limited",
			}},
			InjectionLocation: anthropic.BetaManagedAgentsInjectionLocationParams{Header: anthropic.Bool(true)},
		}},
	})
	must(t, err)
	_, err = credentials.Update(t.Context(), variable.ID, anthropic.BetaVaultCredentialUpdateParams{
		VaultID: vaultID, Metadata: map[string]string{"k": "v"},
		Auth: anthropic.BetaVaultCredentialUpdateParamsAuthUnion{OfEnvironmentVariable: &anthropic.BetaManagedAgentsEnvironmentVariableUpdateParams{
			Type: "environment_variable", SecretValue: anthropic.String("another"), InjectionLocation: anthropic.BetaManagedAgentsInjectionLocationUpdateParams{Body: anthropic.Bool(true)},
		}},
	})
	must(t, err)
	found, err := credentials.Get(t.Context(), variable.ID, anthropic.BetaVaultCredentialGetParams{VaultID: vaultID})
	must(t, err)
	if auth := found.Auth; auth.SecretName != "API_KEY" || auth.Networking.AllowedHosts[0] != "*.example.com" || !auth.InjectionLocation.Header || !auth.InjectionLocation.Body || found.Metadata["k"] != "v" {
		t.Errorf("found %s", found.RawJSON())
	}
	all := credentials.ListAutoPaging(t.Context(), vaultID, anthropic.BetaVaultCredentialListParams{Limit: anthropic.Int(1)})
	for _, want := range []string{variable.ID, oauth.ID} {
		if !all.Next() || all.Current().ID != want {
			t.Fatalf("listed %s, want %s: %v", all.Current().ID, want, all.Err())
		}
	}
	if archived, err := credentials.Archive(t.Context(), oauth.ID, anthropic.BetaVaultCredentialArchiveParams{VaultID: vaultID}); err != nil || archived.ArchivedAt.IsZero() {
		t.Errorf("archived %+v: %v", archived, err)
	}
	if gone, err := credentials.Delete(t.Context(), variable.ID, anthropic.BetaVaultCredentialDeleteParams{VaultID: vaultID}); err != nil || gone.ID != variable.ID {
		t.Errorf("deleted %+v: %v", gone, err)
	}
}
