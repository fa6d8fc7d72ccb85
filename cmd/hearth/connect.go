package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"hearth/client"
)

const defaultBaseURL = "http://127.0.0.1:8400"

// endpoint is how the operating commands find and enter a server.
type endpoint struct {
	baseURL    string
	apiKeyFile string
	data       string
}

func (e *endpoint) register(flags *pflag.FlagSet) {
	flags.StringVar(&e.baseURL, "base-url", "", "the server's address (default: that of a running hearth dev, else "+defaultBaseURL+")")
	flags.StringVar(&e.apiKeyFile, "api-key-file", "", "file with the API key (default: HEARTH_API_KEY, else that of a running hearth dev)")
	flags.StringVar(&e.data, "data", defaultDataDir(), "where hearth dev keeps its state, to find a running one")
}

// devInfo is what hearth dev writes to dev.json once it is ready.
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
	dev := readDevInfo(e.data)
	info := devInfo{
		BaseURL: firstOf(e.baseURL, os.Getenv("ANTHROPIC_BASE_URL"), dev.BaseURL, defaultBaseURL),
		APIKey:  os.Getenv("HEARTH_API_KEY"),
	}
	if e.apiKeyFile != "" {
		key, err := readSecretFile(e.apiKeyFile)
		if err != nil {
			return nil, info, usageError("--api-key-file: %w", err)
		}
		info.APIKey = key
	}
	if info.BaseURL == dev.BaseURL {
		info.APIKey = firstOf(info.APIKey, dev.APIKey)
		info.AgentID, info.EnvironmentID = dev.AgentID, dev.EnvironmentID
	}
	info.APIKey = firstOf(info.APIKey, os.Getenv("ANTHROPIC_API_KEY"))
	if info.APIKey == "" {
		return nil, info, usageError("no API key: set HEARTH_API_KEY or --api-key-file, or start hearth dev")
	}
	return client.New(info.BaseURL, info.APIKey), info, nil
}

func readDevInfo(data string) devInfo {
	var info devInfo
	raw, err := os.ReadFile(filepath.Join(data, "dev.json"))
	if err != nil || json.Unmarshal(raw, &info) != nil {
		return devInfo{}
	}
	return info
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
func writePrivate(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// defaultDataDir is hearth's directory among the user's data.
func defaultDataDir() string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "hearth")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "hearth")
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
