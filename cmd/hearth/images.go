package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hearth/internal/hands/image"
)

var imageColumns = []column[image.Entry]{
	{"DIGEST", func(e image.Entry) string { return e.Digest }},
	{"BYTES", func(e image.Entry) string { return strconv.FormatInt(e.Size, 10) }},
	{"USED", func(e image.Entry) string {
		if e.Busy {
			return "now"
		}
		return since(e.Used)
	}},
	{"NAMES", func(e image.Entry) string { return orDash(strings.Join(e.Refs, ", ")) }},
}

func newImages() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Fetch, list and remove the images of a worker's sandboxes",
		Long: `Images are kept below a worker's --state, each as one file that all sandboxes
share. A worker fetches the one that its --image names when it starts; these
commands do so ahead of that, and make room. They work on this host, without a
server.

Credentials for registries are found where docker login and podman login leave
them. Registries on the loopback are spoken to in plain HTTP, others over TLS.`,
		GroupID: "resource",
	}
	cmd.AddCommand(newImagePull(), newImageList(), newImageRemove(), newImagePrune())
	return cmd
}

// newImageCommand makes a command on the cache of a worker.
func newImageCommand(use, short, example string, args cobra.PositionalArgs, run func(*cobra.Command, *image.Store, output, []string) error) *cobra.Command {
	var (
		state string
		cache byteSize = image.DefaultLimit
		out   output
	)
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			store, err := image.Open(filepath.Join(state, "images"), int64(cache), log)
			if err != nil {
				return err
			}
			return run(cmd, store, out, args)
		},
	}
	cmd.Flags().StringVar(&state, "state", filepath.Join(defaultDataDir(), "worker"), "the worker's directory")
	cmd.Flags().Var(&cache, "image-cache", "how much the images may take before those used longest ago go")
	out.register(cmd.Flags())
	return cmd
}

func newImagePull() *cobra.Command {
	return newImageCommand("pull IMAGE", "Fetch an image, unless it is here", `  hearth images pull debian:13-slim
  hearth images pull registry.example.com/team/tools@sha256:…
  hearth images pull ./tools.tar`, cobra.ExactArgs(1),
		func(cmd *cobra.Command, store *image.Store, out output, args []string) error {
			began := time.Now()
			i, err := store.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer i.Close()
			if !i.Bash {
				fmt.Fprintln(cmd.ErrOrStderr(), "note: it has no /bin/bash, without which no worker can use it")
			}
			if out.format != "json" {
				fmt.Fprintf(cmd.ErrOrStderr(), "ready after %s\n", time.Since(began).Round(time.Millisecond))
			}
			return printOne(cmd, out, imageColumns, i.Entry)
		})
}

func newImageList() *cobra.Command {
	return newImageCommand("list", "List the images, last used first", "  hearth images list", cobra.NoArgs,
		func(cmd *cobra.Command, store *image.Store, out output, _ []string) error {
			entries, err := store.List()
			if err != nil {
				return err
			}
			return printAll(cmd, out, imageColumns, entries)
		})
}

func newImageRemove() *cobra.Command {
	return newImageCommand("remove IMAGE", "Remove an image, by digest or name", "  hearth images remove debian:13-slim", cobra.ExactArgs(1),
		func(_ *cobra.Command, store *image.Store, _ output, args []string) error {
			return store.Remove(args[0])
		})
}

func newImagePrune() *cobra.Command {
	return newImageCommand("prune", "Remove every image that no worker uses", "  hearth images prune", cobra.NoArgs,
		func(cmd *cobra.Command, store *image.Store, _ output, _ []string) error {
			freed, err := store.Prune()
			fmt.Fprintf(cmd.OutOrStdout(), "freed %d bytes\n", freed)
			return err
		})
}
