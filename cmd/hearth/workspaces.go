package main

import (
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var workspaceColumns = []column[api.Workspace]{
	{"ID", func(w api.Workspace) string { return w.ID }},
	{"NAME", func(w api.Workspace) string { return w.Name }},
	{"CREATED", func(w api.Workspace) string { return since(w.CreatedAt) }},
	{"STATE", func(w api.Workspace) string {
		if w.ArchivedAt != nil {
			return "archived"
		}
		return "open"
	}},
}

func newWorkspaces() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workspaces",
		Short: "List, create, rename and archive workspaces",
		Long: `A workspace is a tenant: its agents, environments, sessions, files and keys do
not exist for any other. Admins of the default workspace, wrkspc_default, make
workspaces, and every command takes them into one with --workspace.`,
		GroupID: "resource",
	}
	cmd.AddCommand(newWorkspaceList(), newGet("workspace", "v1/workspaces/", "wrkspc_…", workspaceColumns), newWorkspaceCreate(), newWorkspaceRename(), newWorkspaceArchive())
	return cmd
}

func newWorkspaceList() *cobra.Command {
	var archived bool
	cmd := newCall("list", "List workspaces, newest first", "  hearth workspaces list",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			query := url.Values{}
			if archived {
				query.Set("include_archived", "true")
			}
			list, err := listAll[api.Workspace](cmd, c, "v1/workspaces", query, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, workspaceColumns, list)
		})
	cmd.Flags().BoolVar(&archived, "include-archived", false, "list archived ones, too")
	return cmd
}

// workspaceCall posts to a workspace and prints what it has become.
func workspaceCall(cmd *cobra.Command, c *client.Client, out output, path string, body any) error {
	var w api.Workspace
	if err := c.Do(cmd.Context(), http.MethodPost, path, body, &w); err != nil {
		return err
	}
	return printOne(cmd, out, workspaceColumns, w)
}

func newWorkspaceCreate() *cobra.Command {
	return newCall("create NAME", "Create a workspace",
		"  hearth workspaces create team-a\n  hearth keys api create --workspace wrkspc_… --role admin > team-a.key",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			return workspaceCall(cmd, c, out, "v1/workspaces", map[string]string{"name": args[0]})
		})
}

func newWorkspaceRename() *cobra.Command {
	return newCall("rename ID NAME", "Give a workspace another name", "  hearth workspaces rename wrkspc_… team-b",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			return workspaceCall(cmd, c, out, "v1/workspaces/"+url.PathEscape(args[0]), map[string]string{"name": args[1]})
		})
}

func newWorkspaceArchive() *cobra.Command {
	return newCall("archive ID", "Close a workspace for good; all its keys and workers are refused from then on", "  hearth workspaces archive wrkspc_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			return workspaceCall(cmd, c, out, "v1/workspaces/"+url.PathEscape(args[0])+"/archive", nil)
		})
}
