package doctor

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"

	"hearth/api"
)

// secret is the key, as far as there is one.
func (c Config) secret() string {
	key, _ := c.readKey() // said by the check
	return key
}

func (c Config) readKey() (string, error) {
	if c.EnvironmentKeyFile == "" {
		return strings.TrimSpace(c.EnvironmentKey), nil
	}
	raw, err := os.ReadFile(c.EnvironmentKeyFile)
	return strings.TrimSpace(string(raw)), err
}

// key asks the server whether it takes the key for the environment, by requests
// that claim nothing.
func (w *way) key(ctx context.Context, base *url.URL, cfg Config) Finding {
	newKey := "hearth keys create " + quoted(cfg.EnvironmentID) + " > worker.key   (where the server's API key is)"
	if cfg.EnvironmentID == "" {
		return skipped(stepKey, "no environment is named; set --environment-id to check its key")
	}
	key, err := cfg.readKey()
	switch {
	case err != nil:
		return failure(stepKey, newKey, "--environment-key-file: %v", err)
	case key == "" && cfg.EnvironmentKeyFile != "":
		return failure(stepKey, newKey, "%s is empty", cfg.EnvironmentKeyFile)
	case key == "":
		return skipped(stepKey, "no key was given; set --environment-key-file or HEARTH_ENVIRONMENT_KEY to check it")
	case strings.ContainsAny(key, " \t\r\n"):
		return failure(stepKey, newKey, "a key has no white space in it")
	}
	response, body, err := w.get(ctx, base, "/v1/environments/"+url.PathEscape(cfg.EnvironmentID)+"/work/stats", key)
	if err != nil {
		return failure(stepKey, "look at the server's log", "no answer came: %v", reason(err))
	}
	var stats api.WorkStats
	switch {
	case response.StatusCode == http.StatusUnauthorized:
		return failure(stepKey, newKey, "the server does not accept it: %s", said(response, body))
	case response.StatusCode == http.StatusForbidden, response.StatusCode == http.StatusNotFound:
		return failure(stepKey, newKey, "it is not one of %s: %s", cfg.EnvironmentID, said(response, body))
	case response.StatusCode != http.StatusOK:
		return failure(stepKey, "look at the server's log", "the server answers %s", said(response, body))
	case json.Unmarshal(body, &stats) != nil || stats.Type == "":
		return failure(stepKey, "set --base-url to the server itself", "something else answers at this address")
	}
	// A client's key may look at the queue too, but not take from it; and what
	// it may do besides, a worker had better not.
	if response, _, err := w.get(ctx, base, "/v1/agents?limit=1", key); err == nil && response.StatusCode == http.StatusOK {
		return failure(stepKey, newKey, "this is an API key of the server, not an environment's")
	}
	if f := readableByOthers(cfg.EnvironmentKeyFile); f != nil {
		return *f
	}
	return good(stepKey, "accepted for %s, where %d sessions wait", cfg.EnvironmentID, stats.Depth)
}

// readableByOthers tells of a key's file that others on the host can read.
func readableByOthers(path string) *Finding {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	f := warning(stepKey, "chmod 600 "+quoted(path), "accepted, but others on this host can read %s too", path)
	return &f
}
