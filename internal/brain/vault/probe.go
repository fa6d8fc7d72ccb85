package vault

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/outbound"
)

// probeTimeout bounds a probe of an MCP server, all its steps together.
const probeTimeout = 20 * time.Second

// protocol is the version of MCP that a probe asks for.
const protocol = "2025-06-18"

// Validate tries a credential of the kind mcp_oauth at its MCP server, and refreshes
// the access token if the server does not take it.
func (s *Store) Validate(ctx context.Context, workspaceID, vaultID, id string) (api.CredentialValidation, error) {
	out := api.CredentialValidation{Type: "vault_credential_validation", VaultID: vaultID, CredentialID: id, ValidatedAt: s.moment()}
	c, err := s.read(ctx, workspaceID, vaultID, id)
	switch {
	case err != nil:
		return out, err
	case c.ArchivedAt != nil:
		return out, api.BadRequest("credential %s is archived, and has no secrets any more", id)
	case c.Auth.Type != api.CredentialMCPOAuth:
		return out, api.BadRequest("credential %s is of the type %s; only %s can be validated", id, c.Auth.Type, api.CredentialMCPOAuth)
	}
	out.HasRefreshToken = c.Auth.Refresh != nil
	step, err := s.probe(ctx, c)
	if err != nil {
		return out, err
	}
	if step.is(http.StatusUnauthorized) {
		fresh, err := s.refresh(ctx, c, out.ValidatedAt)
		var failure *RefreshError
		switch {
		case err == nil:
			out.Refresh = &api.RefreshOutcome{Status: api.RefreshSucceeded}
			if step, err = s.probe(ctx, fresh); err != nil {
				return out, err
			}
		case errors.As(err, &failure):
			out.Refresh = &api.RefreshOutcome{Status: failure.Outcome, HTTPResponse: failure.response}
		default:
			return out, err
		}
	}
	out.MCPProbe, out.Status = (*api.MCPProbe)(step), verdict(step, out.Refresh)
	return out, nil
}

// step is a step of a probe that has failed, nil for none.
type step api.MCPProbe

func (s *step) is(status int) bool {
	return s != nil && s.HTTPResponse != nil && s.HTTPResponse.StatusCode == status
}

// verdict is what follows: a token is bad when the server says so, and could not be
// replaced because the token endpoint says no. Who cannot be asked says nothing.
func verdict(failed *step, refresh *api.RefreshOutcome) string {
	switch {
	case failed == nil:
		return api.CredentialValid
	case failed.is(http.StatusForbidden):
		return api.CredentialInvalid
	case !failed.is(http.StatusUnauthorized):
		return api.CredentialUnknown
	case refresh.Status == api.RefreshConnectError:
		return api.CredentialUnknown
	case refresh.HTTPResponse != nil && !slices.Contains(noes, refresh.HTTPResponse.StatusCode):
		return api.CredentialUnknown
	}
	return api.CredentialInvalid
}

// noes are how token endpoints say no; some do so with 200. Any other status is
// trouble of theirs.
var noes = []int{http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden}

// probe greets an MCP server and asks for its tools, and returns the step that failed.
// An error is one of ours, or says that the operator does not let us call there.
func (s *Store) probe(ctx context.Context, c credential) (*step, error) {
	known, err := s.open(ctx, c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p := prober{client: s.Client, url: c.Auth.MCPServerURL, known: known, header: http.Header{}}
	p.header.Set("Authorization", "Bearer "+known.token)
	failed, err := p.run(ctx)
	if refused, ok := outbound.Refused(err); ok {
		return nil, api.Invalid("auth.mcp_server_url", "%s", refused)
	}
	if err != nil {
		s.Log.Info("an MCP server could not be probed", "vault", c.VaultID, "credential", c.ID, "error", bare(err))
	}
	return failed, nil
}

// prober speaks as much of MCP as it takes to see whether a token is good.
type prober struct {
	client *http.Client
	url    string
	known  secrets
	header http.Header
}

// reply is a JSON-RPC response.
type reply struct {
	ID     json.RawMessage `json:"id"`
	Error  json.RawMessage `json:"error"`
	Result struct {
		ProtocolVersion string `json:"protocolVersion"`
	} `json:"result"`
}

func (p *prober) run(ctx context.Context) (*step, error) {
	const hello = "initialize"
	response, answer, failed, err := p.call(ctx, hello, map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": hello,
		"params": map[string]any{"protocolVersion": protocol, "capabilities": map[string]any{}, "clientInfo": map[string]string{"name": "hearth", "version": "1"}},
	})
	if failed != nil {
		return failed, err
	}
	if version := answer.Result.ProtocolVersion; version != "" {
		p.header.Set("MCP-Protocol-Version", version)
	}
	if session := response.Header.Get("MCP-Session-Id"); session != "" {
		p.header.Set("MCP-Session-Id", session)
		defer p.end(context.WithoutCancel(ctx))
	}
	// Servers may wait for this; whether they take it shows in what follows.
	if response, err := p.post(ctx, map[string]any{"jsonrpc": "2.0", "method": "notifications/initialized"}); err == nil {
		response.Body.Close()
	}
	const tools = "tools/list"
	_, _, failed, err = p.call(ctx, tools, map[string]any{"jsonrpc": "2.0", "id": 2, "method": tools})
	return failed, err
}

// end tells the server that its session is over, if it cares.
func (p *prober) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, p.url, nil)
	if err != nil {
		return
	}
	request.Header = p.header.Clone()
	if response, err := p.client.Do(request); err == nil {
		response.Body.Close()
	}
}

func (p *prober) post(ctx context.Context, message any) (*http.Response, error) {
	raw, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	request.Header = p.header.Clone()
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	return p.client.Do(request)
}

// call makes a request and reads its answer, which may be a stream of events. The
// step has failed when there is none, or one that is no answer.
func (p *prober) call(ctx context.Context, method string, message any) (*http.Response, reply, *step, error) {
	failed := &step{Method: method}
	response, err := p.post(ctx, message)
	if err != nil {
		return nil, reply{}, failed, err
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, maxAnswer)
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err == nil && kind == "text/event-stream" && response.StatusCode == http.StatusOK {
		answer, err := firstReply(body)
		if err != nil {
			return nil, reply{}, failed, err
		}
		return response, answer, nil, nil
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, reply{}, failed, err
	}
	var answer reply
	if response.StatusCode != http.StatusOK || json.Unmarshal(raw, &answer) != nil || answer.ID == nil || answer.Error != nil {
		failed.HTTPResponse = show(response, raw, p.known)
		return nil, reply{}, failed, nil
	}
	return response, answer, nil, nil
}

// firstReply reads events until one is a response.
func firstReply(body io.Reader) (reply, error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxAnswer)
	var data strings.Builder
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data:"); ok {
			data.WriteString(text)
			continue
		}
		if lines.Text() != "" || data.Len() == 0 {
			continue
		}
		var answer reply
		if json.Unmarshal([]byte(data.String()), &answer) == nil && answer.ID != nil {
			if answer.Error != nil {
				return reply{}, errors.New("the server answered with a JSON-RPC error")
			}
			return answer, nil
		}
		data.Reset()
	}
	if err := lines.Err(); err != nil {
		return reply{}, err
	}
	return reply{}, errors.New("the stream of events ended without an answer")
}
