package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var keyColumns = []column[api.EnvironmentKey]{
	{"ID", func(k api.EnvironmentKey) string { return k.ID }},
	{"NAME", func(k api.EnvironmentKey) string { return k.Name }},
	{"CREATED", func(k api.EnvironmentKey) string { return since(k.CreatedAt) }},
	{"STATE", func(k api.EnvironmentKey) string { return validity(k.RevokedAt, k.ExpiresAt) }},
}

// validity says until when a key is good.
func validity(revoked, expires *time.Time) string {
	switch {
	case revoked != nil:
		return "revoked"
	case expires == nil:
		return "valid"
	case expires.Before(time.Now()):
		return "expired"
	}
	return "valid until " + expires.Local().Format("2006-01-02 15:04")
}

func newKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List, create and revoke keys: of environments, and with keys api, of the API",
		Long: `An environment key lets a worker serve one environment's queue, and nothing else.
An API key (hearth keys api) lets a program use the API.`,
		GroupID: "resource",
	}
	cmd.AddCommand(newKeyList(), newKeyCreate(), newKeyRevoke(), newAPIKeys())
	return cmd
}

func newKeyList() *cobra.Command {
	return newCall("list ENVIRONMENT", "List the keys of an environment, without their secrets", "  hearth keys list env_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			keys, err := c.ListKeys(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printAll(cmd, out, keyColumns, keys)
		})
}

func newKeyCreate() *cobra.Command {
	var (
		name    string
		expires time.Duration
	)
	cmd := newCall("create ENVIRONMENT", "Create a key and print its secret, once",
		"  hearth keys create env_… --name site-a > worker.key && chmod 600 worker.key",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			params := client.KeyParams{Name: name}
			if expires > 0 {
				at := time.Now().Add(expires).UTC()
				params.ExpiresAt = &at
			}
			key, err := c.CreateKey(cmd.Context(), args[0], params)
			if err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), key)
			}
			// The secret alone on standard output, so that it can go into a file.
			fmt.Fprintf(cmd.ErrOrStderr(), "key %s for %s; keep the secret now, it is not shown again\n", key.ID, key.EnvironmentID)
			fmt.Fprintln(cmd.OutOrStdout(), key.Key)
			return nil
		})
	cmd.Flags().StringVar(&name, "name", "worker", "what the key is called in lists")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long the key is valid, 720h say (0: until revoked)")
	return cmd
}

func newKeyRevoke() *cobra.Command {
	return newCall("revoke ENVIRONMENT KEY", "Revoke a key; its next request is refused", "  hearth keys revoke env_… envkey_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			key, err := c.RevokeKey(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return printOne(cmd, out, keyColumns, key)
		})
}
