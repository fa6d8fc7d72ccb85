package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var apiKeyColumns = []column[api.APIKey]{
	{"ID", func(k api.APIKey) string { return k.ID }},
	{"NAME", func(k api.APIKey) string { return k.Name }},
	{"ROLE", func(k api.APIKey) string { return k.Role }},
	{"KEY", func(k api.APIKey) string { return orDash(deref(k.PartialKeyHint)) }},
	{"CREATED", func(k api.APIKey) string { return since(k.CreatedAt) }},
	{"USED", func(k api.APIKey) string {
		if k.LastUsedAt == nil {
			return "-"
		}
		return since(*k.LastUsedAt)
	}},
	{"STATE", func(k api.APIKey) string { return validity(k.RevokedAt, k.ExpiresAt) }},
}

func newAPIKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "api",
		Short: "List, create and revoke API keys",
		Long: `An API key lets a program use the API in one workspace, as far as its role goes:

  viewer      reads
  developer   makes and changes agents, environments, sessions and files, too
  admin       hands out keys, too; in the default workspace, makes workspaces`,
	}
	cmd.AddCommand(newAPIKeyList(), newAPIKeyCreate(), newAPIKeyRevoke())
	return cmd
}

func newAPIKeyList() *cobra.Command {
	return newCall("list", "List the API keys of a workspace, without their secrets", "  hearth keys api list\n  hearth keys api list --workspace wrkspc_…",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			keys, err := listAll[api.APIKey](cmd, c, "v1/api_keys", nil, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, apiKeyColumns, keys)
		})
}

func newAPIKeyCreate() *cobra.Command {
	var (
		name, role string
		expires    time.Duration
	)
	cmd := newCall("create", "Create an API key and print it, once",
		"  hearth keys api create --role developer --name pipeline > pipeline.key && chmod 600 pipeline.key",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			if role == "" {
				return usageError("--role is needed: viewer, developer or admin")
			}
			body := map[string]any{"name": name, "role": role}
			if expires > 0 {
				body["expires_at"] = time.Now().Add(expires).UTC()
			}
			var key api.APIKey
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/api_keys", body, &key); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), key)
			}
			// The key alone on standard output, so that it can go into a file.
			fmt.Fprintf(cmd.ErrOrStderr(), "key %s with the role %s in %s; keep it now, it is not shown again\n", key.ID, key.Role, key.WorkspaceID)
			fmt.Fprintln(cmd.OutOrStdout(), key.Key)
			return nil
		})
	cmd.Flags().StringVar(&name, "name", "key", "what the key is called in lists")
	oneOf(cmd.Flags(), &role, "role", "", "what its holder may do: viewer, developer or admin", "viewer", "developer", "admin")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long the key is valid, 720h say (0: until revoked)")
	return cmd
}

func newAPIKeyRevoke() *cobra.Command {
	return newCall("revoke KEY", "Revoke an API key, by its id; its next request is refused", "  hearth keys api revoke apikey_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var key api.APIKey
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/api_keys/"+url.PathEscape(args[0])+"/revoke", nil, &key); err != nil {
				return err
			}
			return printOne(cmd, out, apiKeyColumns, key)
		})
}
