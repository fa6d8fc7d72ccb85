package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var vaultColumns = []column[api.Vault]{
	{"ID", func(v api.Vault) string { return v.ID }},
	{"NAME", func(v api.Vault) string { return v.DisplayName }},
	{"CREATED", func(v api.Vault) string { return since(v.CreatedAt) }},
	{"STATE", func(v api.Vault) string {
		if v.ArchivedAt != nil {
			return "archived"
		}
		return "open"
	}},
}

var credentialColumns = []column[api.Credential]{
	{"ID", func(c api.Credential) string { return c.ID }},
	{"NAME", func(c api.Credential) string { return orDash(deref(c.DisplayName)) }},
	{"TYPE", func(c api.Credential) string { return c.Auth.Type }},
	{"FOR", func(c api.Credential) string { return firstOf(c.Auth.MCPServerURL, c.Auth.SecretName) }},
	{"STATE", func(c api.Credential) string {
		switch {
		case c.ArchivedAt != nil:
			return "archived"
		case c.Auth.ExpiresAt != nil:
			return "until " + c.Auth.ExpiresAt.Local().Format("2006-01-02 15:04")
		}
		return "open"
	}},
}

func newVaults() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vaults",
		Short: "Keep what agents authenticate with, and see whether it works",
		Long: `A vault holds the credentials that agents use in sessions which name it: tokens
for MCP servers, and secrets for the requests of their programs. What goes in is
encrypted and never shown again.

  hearth vaults create github
  hearth vaults credentials add vlt_… --server https://mcp.example.com/mcp --secret-file token
  hearth sessions create --vault vlt_…`,
		GroupID: "resource",
	}
	cmd.AddCommand(
		newList("vaults", "v1/vaults", vaultColumns),
		newGet("vault", "v1/vaults/", "vlt_…", vaultColumns),
		newVaultCreate(),
		newCall("archive ID", "Archive a vault and its credentials, and purge their secrets", "  hearth vaults archive vlt_…",
			func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
				var vault api.Vault
				if err := c.Do(cmd.Context(), http.MethodPost, vaultPath(args[0])+"/archive", nil, &vault); err != nil {
					return err
				}
				return printOne(cmd, out, vaultColumns, vault)
			}),
		newCall("delete ID", "Delete a vault with all that is in it", "  hearth vaults delete vlt_…",
			func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
				return remove(cmd, c, out, vaultPath(args[0]))
			}),
		newCredentials(),
	)
	return cmd
}

func newVaultCreate() *cobra.Command {
	return newCall("create NAME", "Create a vault", "  hearth vaults create github",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var vault api.Vault
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/vaults", map[string]any{"display_name": args[0]}, &vault); err != nil {
				return err
			}
			return printOne(cmd, out, vaultColumns, vault)
		})
}

func newCredentials() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credentials",
		Short: "List, add, validate, archive and delete the credentials of a vault",
		Long:  "A credential is for one MCP server, or for one variable in a sandbox's environment.",
	}
	var archived bool
	list := newCall("list VAULT", "List the credentials of a vault, without their secrets", "  hearth vaults credentials list vlt_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			query := url.Values{}
			if archived {
				query.Set("include_archived", "true")
			}
			credentials, err := listAll[api.Credential](cmd, c, vaultPath(args[0])+"/credentials", query, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, credentialColumns, credentials)
		})
	list.Flags().BoolVar(&archived, "archived", false, "list archived ones too")
	cmd.AddCommand(list, newCredentialAdd(), newCredentialValidate(),
		newCall("archive VAULT CREDENTIAL", "Archive a credential and purge its secrets", "  hearth vaults credentials archive vlt_… vcrd_…",
			func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
				var credential api.Credential
				if err := c.Do(cmd.Context(), http.MethodPost, credentialPath(args)+"/archive", nil, &credential); err != nil {
					return err
				}
				return printOne(cmd, out, credentialColumns, credential)
			}),
		newCall("delete VAULT CREDENTIAL", "Delete a credential", "  hearth vaults credentials delete vlt_… vcrd_…",
			func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
				return remove(cmd, c, out, credentialPath(args))
			}),
	)
	return cmd
}

func vaultPath(id string) string { return "v1/vaults/" + url.PathEscape(id) }

func credentialPath(args []string) string {
	return vaultPath(args[0]) + "/credentials/" + url.PathEscape(args[1])
}

func remove(cmd *cobra.Command, c *client.Client, out output, path string) error {
	var gone api.Deleted
	if err := c.Do(cmd.Context(), http.MethodDelete, path, nil, &gone); err != nil {
		return err
	}
	if out.format == "json" {
		return printJSON(cmd.OutOrStdout(), gone)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", gone.ID)
	return nil
}

// newSecret is a credential as the command line describes it.
type newSecret struct {
	name, server, variable, secretFile, file string
	hosts                                    []string
}

func newCredentialAdd() *cobra.Command {
	var s newSecret
	cmd := newCall("add VAULT", "Add a credential to a vault",
		`  hearth vaults credentials add vlt_… --server https://mcp.example.com/mcp --secret-file token
  pass show api-key | hearth vaults credentials add vlt_… --variable API_KEY --host api.example.com --secret-file -
  hearth vaults credentials add vlt_… --file oauth.json`,
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			body, err := s.body(cmd.InOrStdin())
			if err != nil {
				return err
			}
			var credential api.Credential
			if err := c.Do(cmd.Context(), http.MethodPost, vaultPath(args[0])+"/credentials", body, &credential); err != nil {
				return err
			}
			return printOne(cmd, out, credentialColumns, credential)
		})
	cmd.Long = `Add a credential to a vault: with --server a bearer token for an MCP server; with
--variable a secret that the programs of a sandbox find in that variable as a
placeholder, and that takes the placeholder's place in their requests. For anything
else, OAuth with refresh say, give the whole request body as JSON with --file.`
	cmd.Flags().StringVar(&s.name, "name", "", "what the credential is called in lists")
	cmd.Flags().StringVar(&s.server, "server", "", "the URL of the MCP server that the token is for")
	cmd.Flags().StringVar(&s.variable, "variable", "", "the name of the variable that the secret is for")
	cmd.Flags().StringArrayVar(&s.hosts, "host", nil, "with --variable: a host that the secret may be sent to, *.example.com for all below; may be repeated (default: any that the environment allows)")
	cmd.Flags().StringVar(&s.secretFile, "secret-file", "", "the file with the secret, - for standard input")
	cmd.Flags().StringVar(&s.file, "file", "", "a file with the request body, - for standard input")
	return cmd
}

func (s newSecret) body(in io.Reader) (any, error) {
	if s.file != "" {
		raw, err := readFrom(s.file, in)
		if err == nil && !json.Valid(raw) {
			err = fmt.Errorf("%s is not valid JSON", s.file)
		}
		if err != nil {
			return nil, usageError("--file: %w", err)
		}
		return json.RawMessage(raw), nil
	}
	if (s.server == "") == (s.variable == "") {
		return nil, usageError("say what the credential is for: --server, --variable or --file")
	}
	if s.secretFile == "" {
		return nil, usageError("--secret-file: name the file with the secret, or - for standard input")
	}
	raw, err := readFrom(s.secretFile, in)
	if err != nil {
		return nil, usageError("--secret-file: %w", err)
	}
	secret := strings.TrimRight(string(raw), "\r\n") // which no editor leaves out
	auth := map[string]any{"type": api.CredentialStaticBearer, "mcp_server_url": s.server, "token": secret}
	if s.variable != "" {
		networking := api.CredentialNetworking{Type: api.NetworkingUnrestricted}
		if len(s.hosts) > 0 {
			networking = api.CredentialNetworking{Type: api.NetworkingLimited, AllowedHosts: s.hosts}
		}
		auth = map[string]any{"type": api.CredentialEnvironmentVariable, "secret_name": s.variable, "secret_value": secret, "networking": networking}
	}
	body := map[string]any{"auth": auth}
	if s.name != "" {
		body["display_name"] = s.name
	}
	return body, nil
}

func readFrom(path string, in io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(path)
}

var validationColumns = []column[api.CredentialValidation]{
	{"STATUS", func(v api.CredentialValidation) string { return v.Status }},
	{"FAILED", func(v api.CredentialValidation) string {
		if v.MCPProbe == nil {
			return "-"
		}
		return v.MCPProbe.Method + withStatus(v.MCPProbe.HTTPResponse)
	}},
	{"REFRESH", func(v api.CredentialValidation) string {
		if v.Refresh == nil {
			return "-"
		}
		return v.Refresh.Status + withStatus(v.Refresh.HTTPResponse)
	}},
}

func withStatus(r *api.HTTPResponse) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf(" (%d)", r.StatusCode)
}

func newCredentialValidate() *cobra.Command {
	cmd := newCall("validate VAULT CREDENTIAL", "Try an OAuth credential at its MCP server",
		"  hearth vaults credentials validate vlt_… vcrd_…\n  hearth vaults credentials validate vlt_… vcrd_… -o json",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var validation api.CredentialValidation
			if err := c.Do(cmd.Context(), http.MethodPost, credentialPath(args)+"/mcp_oauth_validate", nil, &validation); err != nil {
				return err
			}
			if err := printOne(cmd, out, validationColumns, validation); err != nil {
				return err
			}
			if validation.Status != api.CredentialValid {
				return &exitError{code: exitFailed}
			}
			return nil
		})
	cmd.Long = `Try a credential of the type mcp_oauth at its MCP server, and refresh its access
token if the server does not take it. It exits with 1 unless the status is valid:

  valid     the server takes the token, a refreshed one maybe
  invalid   it does not, and no better token is to be had
  unknown   the server, or the token endpoint, could not be asked`
	return cmd
}
