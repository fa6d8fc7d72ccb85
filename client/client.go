// Package client is the Go client for what Hearth adds to the Managed Agents
// API: the keys of environments. Everything else is covered by the official
// SDK, on which this client stands and to which SDK gives access, so that one
// set of credentials serves both.
package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/api"
)

// Client speaks to one Hearth server. It is safe for concurrent use.
type Client struct {
	sdk anthropic.Client
}

// New makes a client for the server at baseURL that authenticates with an API
// key. Further options of the official SDK are applied last.
func New(baseURL, apiKey string, opts ...option.RequestOption) *Client {
	own := []option.RequestOption{
		option.WithoutEnvironmentDefaults(),
		option.WithBaseURL(baseURL),
		option.WithAPIKey(apiKey),
	}
	return &Client{sdk: anthropic.NewClient(append(own, opts...)...)}
}

// SDK is the official client underneath.
func (c *Client) SDK() *anthropic.Client { return &c.sdk }

// Do makes one request with the official client's authentication, retries and
// errors, and decodes the JSON answer into out (nil to drop it). Path begins
// with v1/.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	return c.sdk.Execute(ctx, method, path, in, out)
}

// KeyParams are those of a new environment key.
type KeyParams struct {
	Name      string     `json:"name"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // nil: never
}

// CreateKey makes a key for the workers of an environment. Its secret is in
// the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, environmentID string, p KeyParams) (api.EnvironmentKey, error) {
	var key api.EnvironmentKey
	err := c.Do(ctx, http.MethodPost, keysPath(environmentID), p, &key)
	return key, err
}

// ListKeys lists the keys of an environment, without their secrets.
func (c *Client) ListKeys(ctx context.Context, environmentID string) ([]api.EnvironmentKey, error) {
	var keys []api.EnvironmentKey
	path := keysPath(environmentID)
	for query := ""; ; {
		var page api.Page[api.EnvironmentKey]
		if err := c.Do(ctx, http.MethodGet, path+query, nil, &page); err != nil {
			return nil, err
		}
		keys = append(keys, page.Data...)
		if page.NextPage == nil {
			return keys, nil
		}
		query = "?page=" + url.QueryEscape(*page.NextPage)
	}
}

// RevokeKey revokes a key; the next request made with it is refused.
func (c *Client) RevokeKey(ctx context.Context, environmentID, keyID string) (api.EnvironmentKey, error) {
	var key api.EnvironmentKey
	err := c.Do(ctx, http.MethodPost, keysPath(environmentID)+"/"+url.PathEscape(keyID)+"/revoke", nil, &key)
	return key, err
}

// WorkStats describes the queue of an environment. An environment key may ask
// for it as well as an API key.
func (c *Client) WorkStats(ctx context.Context, environmentID string) (api.WorkStats, error) {
	var stats api.WorkStats
	err := c.Do(ctx, http.MethodGet, "v1/environments/"+url.PathEscape(environmentID)+"/work/stats", nil, &stats)
	return stats, err
}

func keysPath(environmentID string) string {
	return "v1/environments/" + url.PathEscape(environmentID) + "/keys"
}
