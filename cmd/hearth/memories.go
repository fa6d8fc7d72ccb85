package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var memoryStoreColumns = []column[api.MemoryStore]{
	{"ID", func(s api.MemoryStore) string { return s.ID }},
	{"NAME", func(s api.MemoryStore) string { return s.Name }},
	{"DESCRIPTION", func(s api.MemoryStore) string { return orDash(s.Description) }},
	{"CREATED", func(s api.MemoryStore) string { return since(s.CreatedAt) }},
	{"STATE", func(s api.MemoryStore) string {
		if s.ArchivedAt != nil {
			return "archived"
		}
		return "open"
	}},
}

var memoryColumns = []column[api.Memory]{
	{"PATH", func(m api.Memory) string { return m.Path }},
	{"BYTES", func(m api.Memory) string { return strconv.FormatInt(m.ContentSizeBytes, 10) }},
	{"CHANGED", func(m api.Memory) string { return since(m.UpdatedAt) }},
	{"ID", func(m api.Memory) string { return m.ID }},
}

var memoryVersionColumns = []column[api.MemoryVersion]{
	{"VERSION", func(v api.MemoryVersion) string { return v.ID }},
	{"WHAT", func(v api.MemoryVersion) string {
		if v.RedactedAt != nil {
			return v.Operation + ", redacted"
		}
		return v.Operation
	}},
	{"PATH", func(v api.MemoryVersion) string { return orDash(deref(v.Path)) }},
	{"WHEN", func(v api.MemoryVersion) string { return since(v.CreatedAt) }},
	{"WHO", func(v api.MemoryVersion) string {
		if v.CreatedBy == nil {
			return "-"
		}
		return v.CreatedBy.ID()
	}},
}

func newMemories() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "memories",
		Short: "What agents remember from one session to the next",
		Long: `A memory store holds texts at paths. A session that is started with --memory finds
it as a directory below /mnt/memory, and what it changes there is in the store
for the next session. Every change is kept as a version for 30 days.`,
		GroupID: "resource",
	}
	cmd.AddCommand(newMemoryStoreList(), newMemoryStoreCreate(), newMemoryStoreEnd("archive", "Close a memory store to changes and new sessions, for good"),
		newMemoryStoreEnd("delete", "Delete a memory store with all that was ever in it"),
		newMemoryTree(), newMemoryRead(), newMemoryWrite(), newMemoryRemove(), newMemoryHistory(), newMemoryRedact())
	return cmd
}

func storePath(id string) string { return "v1/memory_stores/" + url.PathEscape(id) }

func newMemoryStoreList() *cobra.Command {
	var archived bool
	cmd := newCall("list", "List memory stores, newest first", "  hearth memories list\n  hearth memories list --archived -o json",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			query := url.Values{"include_archived": {strconv.FormatBool(archived)}}
			stores, err := listAll[api.MemoryStore](cmd, c, "v1/memory_stores", query, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, memoryStoreColumns, stores)
		})
	cmd.Flags().BoolVar(&archived, "archived", false, "list archived ones, too")
	return cmd
}

func newMemoryStoreCreate() *cobra.Command {
	var description string
	cmd := newCall("create NAME", "Create a memory store", "  hearth memories create 'team notes' --description 'how we work, and who knows what'",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var store api.MemoryStore
			body := map[string]any{"name": args[0], "description": description}
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/memory_stores", body, &store); err != nil {
				return err
			}
			return printOne(cmd, out, memoryStoreColumns, store)
		})
	cmd.Flags().StringVar(&description, "description", "", "what is in it, for the agent to know")
	return cmd
}

// newMemoryStoreEnd is archive or delete.
func newMemoryStoreEnd(verb, short string) *cobra.Command {
	return newCall(verb+" STORE", short, "  hearth memories "+verb+" memstore_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			method, path := http.MethodDelete, storePath(args[0])
			if verb == "archive" {
				method, path = http.MethodPost, path+"/archive"
			}
			var answer any
			if err := c.Do(cmd.Context(), method, path, nil, &answer); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), answer)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%sd %s\n", verb, args[0])
			return nil
		})
}

func newMemoryTree() *cobra.Command {
	var prefix string
	cmd := newCall("tree STORE", "List the memories of a store by path", "  hearth memories tree memstore_…\n  hearth memories tree memstore_… --prefix /projects/",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			memories, err := listAll[api.Memory](cmd, c, storePath(args[0])+"/memories", url.Values{"path_prefix": {prefix}}, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, memoryColumns, memories)
		})
	cmd.Flags().StringVar(&prefix, "prefix", "/", "the directory to list, with a slash at its end")
	return cmd
}

// memoryAt finds the memory at a path; nil if there is none.
func memoryAt(cmd *cobra.Command, c *client.Client, store, path string) (*api.Memory, error) {
	memories, err := listAll[api.Memory](cmd, c, storePath(store)+"/memories", nil, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range memories {
		if m.Path == path {
			return &m, nil
		}
	}
	return nil, nil
}

func mustBeAt(cmd *cobra.Command, c *client.Client, store, path string) (*api.Memory, error) {
	m, err := memoryAt(cmd, c, store, path)
	if err == nil && m == nil {
		err = fmt.Errorf("there is no memory at %s; hearth memories tree %s lists them", path, store)
	}
	return m, err
}

func newMemoryRead() *cobra.Command {
	return newCall("read STORE PATH", "Print a memory", "  hearth memories read memstore_… /projects/notes.md",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			m, err := mustBeAt(cmd, c, args[0], args[1])
			if err != nil {
				return err
			}
			if err := c.Do(cmd.Context(), http.MethodGet, storePath(args[0])+"/memories/"+url.PathEscape(m.ID), nil, m); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), m)
			}
			text := deref(m.Content)
			if isTerminal(cmd.OutOrStdout()) { // an agent may have written it
				lines := strings.Split(text, "\n")
				for i, l := range lines {
					lines[i] = printable(l)
				}
				text = strings.Join(lines, "\n")
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		})
}

func newMemoryWrite() *cobra.Command {
	return newCall("write STORE PATH FILE", "Write a memory, in place of the one that is there",
		"  hearth memories write memstore_… /projects/notes.md notes.md\n  date | hearth memories write memstore_… /date -",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var content []byte
			var err error
			if args[2] == "-" {
				content, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), api.MaxMemoryContent+1))
			} else {
				content, err = os.ReadFile(args[2])
			}
			if err != nil {
				return usageError("%w", err)
			}
			there, err := memoryAt(cmd, c, args[0], args[1])
			if err != nil {
				return err
			}
			path, body := storePath(args[0])+"/memories", map[string]any{"path": args[1], "content": string(content)}
			if there != nil {
				path += "/" + url.PathEscape(there.ID)
				body["precondition"] = map[string]any{"type": "content_sha256", "content_sha256": there.ContentSHA256}
			}
			var made api.Memory
			if err := c.Do(cmd.Context(), http.MethodPost, path, body, &made); err != nil {
				return err
			}
			return printOne(cmd, out, memoryColumns, made)
		})
}

func newMemoryRemove() *cobra.Command {
	return newCall("remove STORE PATH", "Delete a memory; its versions stay for a while", "  hearth memories remove memstore_… /projects/notes.md",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			m, err := mustBeAt(cmd, c, args[0], args[1])
			if err != nil {
				return err
			}
			var gone api.Deleted
			if err := c.Do(cmd.Context(), http.MethodDelete, storePath(args[0])+"/memories/"+url.PathEscape(m.ID), nil, &gone); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), gone)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", gone.ID)
			return nil
		})
}

func newMemoryHistory() *cobra.Command {
	var session string
	var limit int
	cmd := newCall("history STORE", "List who changed what in a store, latest first", "  hearth memories history memstore_…\n  hearth memories history memstore_… --session sesn_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			query := url.Values{}
			if session != "" {
				query.Set("session_id", session)
			}
			versions, err := listAll[api.MemoryVersion](cmd, c, storePath(args[0])+"/memory_versions", query, limit)
			if err != nil {
				return err
			}
			return printAll(cmd, out, memoryVersionColumns, versions)
		})
	cmd.Flags().StringVar(&session, "session", "", "list what a session has changed")
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most this many (0: all)")
	return cmd
}

func newMemoryRedact() *cobra.Command {
	return newCall("redact STORE VERSION", "Take out of a version what it holds, for good", "  hearth memories redact memstore_… memver_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var v api.MemoryVersion
			if err := c.Do(cmd.Context(), http.MethodPost, storePath(args[0])+"/memory_versions/"+url.PathEscape(args[1])+"/redact", nil, &v); err != nil {
				return err
			}
			return printOne(cmd, out, memoryVersionColumns, v)
		})
}
