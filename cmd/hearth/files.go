package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var fileColumns = []column[api.File]{
	{"ID", func(f api.File) string { return f.ID }},
	{"NAME", func(f api.File) string { return f.Filename }},
	{"BYTES", func(f api.File) string { return strconv.FormatInt(f.SizeBytes, 10) }},
	{"SESSION", func(f api.File) string {
		if f.Scope == nil {
			return "-"
		}
		return f.Scope.ID
	}},
	{"CREATED", func(f api.File) string { return since(f.CreatedAt) }},
}

func newFiles() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "files",
		Short: "List, upload, download and delete files",
		Long: `Files are uploaded to be mounted for sessions, and what a session leaves in
/mnt/session/outputs becomes files of that session.`,
		GroupID: "resource",
	}
	cmd.AddCommand(newFileList(), newGet("file", "v1/files/", "file_…", fileColumns), newFileUpload(), newFileDownload(), newFileDelete())
	return cmd
}

func newFileList() *cobra.Command {
	var (
		session string
		limit   int
	)
	cmd := newCall("list", "List files, newest first", "  hearth files list\n  hearth files list --session sesn_… -o json",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			query := url.Values{}
			if session != "" {
				query.Set("scope_id", session)
			}
			files, err := listAll[api.File](cmd, c, "v1/files", query, limit)
			if err != nil {
				return err
			}
			return printAll(cmd, out, fileColumns, files)
		})
	cmd.Flags().StringVar(&session, "session", "", "list those a session has left")
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most this many (0: all)")
	return cmd
}

func newFileUpload() *cobra.Command {
	var name, kind string
	cmd := newCall("upload PATH", "Upload a file", "  hearth files upload report.csv\n  tar c src | hearth files upload - --name src.tar",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return usageError("%w", err)
				}
				defer f.Close()
				in, name = f, cmp.Or(name, filepath.Base(args[0]))
			}
			// They would be headers of the form.
			for what, text := range map[string]string{"--name": name, "--type": kind} {
				if strings.ContainsFunc(text, unicode.IsControl) {
					return usageError("%q has a control character; say something else with %s", text, what)
				}
			}
			body := anthropic.File(in, cmp.Or(name, "stdin"), kind)
			made, err := c.SDK().Beta.Files.Upload(cmd.Context(), anthropic.BetaFileUploadParams{File: body})
			if err != nil {
				return err
			}
			var file api.File
			if err := json.Unmarshal([]byte(made.RawJSON()), &file); err != nil {
				return err
			}
			return printOne(cmd, out, fileColumns, file)
		})
	cmd.Flags().StringVar(&name, "name", "", "what to call it (default: the name of PATH)")
	cmd.Flags().StringVar(&kind, "type", "application/octet-stream", "its media type")
	return cmd
}

func newFileDownload() *cobra.Command {
	var to string
	cmd := newCall("download ID", "Download a file's content", "  hearth files download file_…\n  hearth files download file_… --to - | tar t",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			path := to
			if path == "" {
				var file api.File
				if err := c.Do(cmd.Context(), http.MethodGet, "v1/files/"+url.PathEscape(args[0]), nil, &file); err != nil {
					return err
				}
				path = filepath.Base(file.Filename)
			}
			response, err := c.SDK().Beta.Files.Download(cmd.Context(), args[0], anthropic.BetaFileDownloadParams{})
			if err != nil {
				return err
			}
			defer response.Body.Close()
			return save(cmd, response.Body, to, path)
		})
	cmd.Flags().StringVar(&to, "to", "", "where to put it, - for standard output (default: its name, here; nothing is overwritten)")
	return cmd
}

// save writes a body to a new file, or to standard output if to is "-". Without
// to, the file has the name given.
func save(cmd *cobra.Command, body io.Reader, to, name string) error {
	if to == "-" {
		_, err := io.Copy(cmd.OutOrStdout(), body)
		return err
	}
	path := cmp.Or(to, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return usageError("%w", err)
	}
	n, err := io.Copy(f, body)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d bytes in %s\n", n, path)
	return nil
}

func newFileDelete() *cobra.Command {
	return newCall("delete ID", "Delete a file", "  hearth files delete file_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var gone api.Deleted
			if err := c.Do(cmd.Context(), http.MethodDelete, "v1/files/"+url.PathEscape(args[0]), nil, &gone); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), gone)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", gone.ID)
			return nil
		})
}
