package main

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var skillColumns = []column[api.SkillInfo]{
	{"ID", func(s api.SkillInfo) string { return s.ID }},
	{"NAME", func(s api.SkillInfo) string { return s.DisplayName }},
	{"LATEST", func(s api.SkillInfo) string { return s.LatestVersionID }},
	{"UPDATED", func(s api.SkillInfo) string { return since(s.UpdatedAt) }},
}

var versionColumns = []column[api.SkillVersion]{
	{"ID", func(v api.SkillVersion) string { return v.ID }},
	{"NAME", func(v api.SkillVersion) string { return v.Name }},
	{"CREATED", func(v api.SkillVersion) string { return since(v.CreatedAt) }},
	{"DESCRIPTION", func(v api.SkillVersion) string { return v.Description }},
}

func newSkills() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "skills",
		Short: "Upload, list, download and delete skills",
		Long: `A skill is a directory with a SKILL.md that begins with its name and what it is
for, between two lines of three hyphens:

  ---
  name: quarterly-report
  description: Writes the quarterly report. Use it when figures are to be summed up.
  ---
  How it is done, in as many words and other files as it takes.

Agents that have a skill find it in skills/NAME of their working directory. They
have its latest version (hearth agents create NAME --skill ID), or a version of
their own (--skill ID@VERSION).`,
		GroupID: "resource",
	}
	cmd.AddCommand(newSkillList(), newGet("skill", "v1/skills/", "skill_…", skillColumns), newSkillCreate(), newSkillUpdate(), newSkillVersions(), newSkillDownload(), newSkillDelete())
	return cmd
}

func newSkillList() *cobra.Command {
	var limit int
	cmd := newCall("list", "List skills, newest first", "  hearth skills list\n  hearth skills list --limit 5 -o json",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			skills, err := listAll[api.SkillInfo](cmd, c, "v1/skills", url.Values{}, limit)
			if err != nil {
				return err
			}
			return printAll(cmd, out, skillColumns, skills)
		})
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most this many (0: all)")
	return cmd
}

func newSkillVersions() *cobra.Command {
	return newCall("versions ID", "List the versions of a skill, newest first", "  hearth skills versions skill_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			versions, err := listAll[api.SkillVersion](cmd, c, "v1/skills/"+url.PathEscape(args[0])+"/versions", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, versionColumns, versions)
		})
}

func newSkillCreate() *cobra.Command {
	var name string
	cmd := newCall("create PATH", "Make a skill of a directory or a zip archive of one", "  hearth skills create ./quarterly-report\n  hearth skills create report.zip --display-name 'Quarterly report'",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			files, done, err := skillFiles(args[0])
			if err != nil {
				return err
			}
			defer done()
			p := anthropic.BetaSkillNewParams{Files: files}
			if cmd.Flags().Changed("display-name") {
				p.DisplayName = anthropic.String(name)
			}
			made, err := c.SDK().Beta.Skills.New(cmd.Context(), p)
			if err != nil {
				return err
			}
			return printRaw(cmd, out, skillColumns, made.RawJSON())
		})
	cmd.Flags().StringVar(&name, "display-name", "", "what people see (default: the name in SKILL.md)")
	return cmd
}

func newSkillUpdate() *cobra.Command {
	return newCall("update ID PATH", "Make a new version of a skill", "  hearth skills update skill_… ./quarterly-report",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			files, done, err := skillFiles(args[1])
			if err != nil {
				return err
			}
			defer done()
			made, err := c.SDK().Beta.Skills.Versions.New(cmd.Context(), args[0], anthropic.BetaSkillVersionNewParams{Files: files})
			if err != nil {
				return err
			}
			return printRaw(cmd, out, versionColumns, made.RawJSON())
		})
}

// printRaw prints an object as the SDK has received it.
func printRaw[T any](cmd *cobra.Command, out output, columns []column[T], raw string) error {
	var object T
	if err := json.Unmarshal([]byte(raw), &object); err != nil {
		return err
	}
	return printOne(cmd, out, columns, object)
}

// skillFiles is a zip archive, or a directory made into one on the way.
func skillFiles(path string) (files []io.Reader, done func(), err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, usageError("%w", err)
	}
	if !info.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, nil, usageError("%w", err)
		}
		return []io.Reader{anthropic.File(f, filepath.Base(path), "application/zip")}, func() { f.Close() }, nil
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	out, in := io.Pipe()
	go func() { in.CloseWithError(zipDirectory(in, absolute)) }()
	return []io.Reader{anthropic.File(out, filepath.Base(absolute)+".zip", "application/zip")}, func() { out.Close() }, nil
}

// zipDirectory packs a directory, but for what Git keeps in it.
func zipDirectory(to io.Writer, dir string) error {
	archive := zip.NewWriter(to)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return usageError("%s is neither a file nor a directory, and skills hold nothing else", path)
		}
		name, err := filepath.Rel(filepath.Dir(dir), path)
		if err != nil {
			return err
		}
		return zipFile(archive, path, filepath.ToSlash(name))
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func zipFile(archive *zip.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &zip.FileHeader{Name: name, Method: zip.Store} // so that nothing is too compressed for the server
	header.SetMode(info.Mode())
	out, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}

func newSkillDownload() *cobra.Command {
	var to, version string
	cmd := newCall("download ID", "Download a skill as a zip archive", "  hearth skills download skill_…\n  hearth skills download skill_… --version skillver_… --to old.zip",
		func(cmd *cobra.Command, c *client.Client, _ output, args []string) error {
			versions := c.SDK().Beta.Skills.Versions
			v, err := versions.Get(cmd.Context(), version, anthropic.BetaSkillVersionGetParams{SkillID: args[0]})
			if err != nil {
				return err
			}
			response, err := versions.Download(cmd.Context(), v.ID, anthropic.BetaSkillVersionDownloadParams{SkillID: args[0]})
			if err != nil {
				return err
			}
			defer response.Body.Close()
			return save(cmd, response.Body, to, v.Name+".zip")
		})
	cmd.Flags().StringVar(&version, "version", api.LatestVersion, "the version's id")
	cmd.Flags().StringVar(&to, "to", "", "where to put it, - for standard output (default: its name, here; nothing is overwritten)")
	return cmd
}

func newSkillDelete() *cobra.Command {
	var version string
	cmd := newCall("delete ID", "Delete a skill with all its versions, or one of them", "  hearth skills delete skill_…\n  hearth skills delete skill_… --version skillver_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			path := "v1/skills/" + url.PathEscape(args[0])
			if version != "" {
				path += "/versions/" + url.PathEscape(version)
			}
			var gone api.Deleted
			if err := c.Do(cmd.Context(), http.MethodDelete, path, nil, &gone); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), gone)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", gone.ID)
			return nil
		})
	cmd.Flags().StringVar(&version, "version", "", "delete this version only")
	return cmd
}
