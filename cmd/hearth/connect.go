package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hearth/client"
)

const defaultBaseURL = "http://127.0.0.1:8400"

// endpoint is how the operating commands find and enter a server.
type endpoint struct {
	baseURL    string
	apiKeyFile string
	data       string
	workspace  string
}

func (e *endpoint) register(flags *pflag.FlagSet) {
	flags.StringVar(&e.baseURL, "base-url", "", "the server's address (default: that of the hearth dev or serve running on --data, else "+defaultBaseURL+")")
	flags.StringVar(&e.apiKeyFile, "api-key-file", "", "file with the API key, or with a token of hearth login (default: HEARTH_API_KEY, else that of the server running on --data)")
	flags.StringVar(&e.workspace, "workspace", "", "the workspace to act in, by its id, for keys that may act in several (default: the key's own)")
	flags.StringVar(&e.data, "data", defaultDataDir(), "where hearth dev or serve keeps its state, to find a running one")
}

// Where a server announces itself in its data directory once it is ready.
const (
	devFile   = "dev.json"
	serveFile = "serve.json"
)

// devInfo is what hearth dev announces.
type devInfo struct {
	BaseURL        string `json:"base_url"`
	APIKey         string `json:"api_key"`
	EnvironmentID  string `json:"environment_id"`
	EnvironmentKey string `json:"environment_key"`
	AgentID        string `json:"agent_id"`
}

// connect resolves the server and its key, each from the most explicit place
// that names it.
func (e *endpoint) connect() (*client.Client, devInfo, error) {
	running := readInfo(e.data)
	info := devInfo{
		BaseURL: firstOf(e.baseURL, os.Getenv("ANTHROPIC_BASE_URL"), running.BaseURL, defaultBaseURL),
		APIKey:  os.Getenv("HEARTH_API_KEY"),
	}
	if e.apiKeyFile != "" {
		key, err := readSecretFile(e.apiKeyFile)
		if err != nil {
			return nil, info, usageError("--api-key-file: %w", err)
		}
		info.APIKey = key
	}
	if info.BaseURL == running.BaseURL {
		info.APIKey = firstOf(info.APIKey, running.APIKey)
		info.AgentID, info.EnvironmentID = running.AgentID, running.EnvironmentID
	}
	info.APIKey = firstOf(info.APIKey, os.Getenv("ANTHROPIC_API_KEY"))
	if info.APIKey == "" {
		return nil, info, usageError("no API key for %s: set HEARTH_API_KEY, or name a file with it by --api-key-file (a server keeps its own in DATA/api-key), or start hearth dev", info.BaseURL)
	}
	var opts []option.RequestOption
	if e.workspace != "" {
		opts = append(opts, option.WithHeader("anthropic-workspace-id", e.workspace))
	}
	return client.New(info.BaseURL, info.APIKey, opts...), info, nil
}

// readInfo reads what a server that keeps its state in data has announced:
// hearth dev, or hearth serve, which has less to tell.
func readInfo(data string) devInfo {
	for _, name := range []string{devFile, serveFile} {
		var info devInfo
		raw, err := os.ReadFile(filepath.Join(data, name))
		if err == nil && json.Unmarshal(raw, &info) == nil {
			return info
		}
	}
	return devInfo{}
}

func readSecretFile(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(raw))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

// writePrivate writes a file that only its owner may read, and never half of it.
func writePrivate(path, text string) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(text+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// announce writes what others need to find a server, once it is ready.
func announce(path string, info any) error {
	raw, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(path, string(raw))
}

// defaultDataDir is hearth's directory among the user's data. It is never in a
// directory that others write to: secrets are in it, and programs.
func defaultDataDir() string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "hearth")
	}
	home := os.Getenv("HOME")
	if me, err := user.LookupId(strconv.Itoa(os.Getuid())); home == "" && err == nil {
		home = me.HomeDir // services are often without the variable
	}
	if home == "" {
		return "/var/lib/hearth"
	}
	return filepath.Join(home, ".local", "share", "hearth")
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// newCall makes a command that asks a server for something and prints the
// answer. It takes as many arguments as use names.
func newCall(use, short, example string, run func(*cobra.Command, *client.Client, output, []string) error) *cobra.Command {
	var (
		to  endpoint
		out output
	)
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: example,
		Args:    cobra.ExactArgs(len(strings.Fields(use)) - 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := to.connect()
			if err != nil {
				return err
			}
			return run(cmd, c, out, args)
		},
	}
	to.register(cmd.Flags())
	out.register(cmd.Flags())
	return cmd
}
