package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/outbound"
)

// grant is what a token endpoint gave.
type grant struct {
	accessToken  string
	refreshToken string        // "" when the one before stays
	lifetime     time.Duration // 0 when it is not known
}

// The limits of what is read of an answer, and of what is shown of it, in bytes.
const (
	maxAnswer = 256 << 10
	maxShown  = 4 << 10
)

// maxLifetime is the longest that a token is believed to last.
const maxLifetime = 10 * 365 * 24 * time.Hour

// askTokenEndpoint makes the request of RFC 6749, section 6. Cause is for the log.
func (s *Store) askTokenEndpoint(ctx context.Context, r api.CredentialRefresh, known secrets) (got grant, failure *Failure, cause error) {
	request, err := tokenRequest(ctx, r, known)
	if err != nil {
		return grant{}, &Failure{Outcome: api.RefreshConnectError, Reason: "the token endpoint's address cannot be called"}, err
	}
	response, err := s.Client.Do(request)
	if err != nil {
		return grant{}, unreachable(err), bare(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return grant{}, unreachable(err), bare(err)
	}
	var answer struct {
		AccessToken  string          `json:"access_token"`
		TokenType    string          `json:"token_type"`
		ExpiresIn    json.RawMessage `json:"expires_in"`
		RefreshToken string          `json:"refresh_token"`
		Error        string          `json:"error"`
	}
	err = json.Unmarshal(body, &answer)
	failure = &Failure{Outcome: api.RefreshFailed, Status: response.StatusCode, response: show(response, body, known)}
	if isErrorCode.MatchString(answer.Error) {
		failure.Code = answer.Error
	}
	if response.StatusCode != http.StatusOK {
		return grant{}, failure, nil
	}
	// Whatever is wrong with it, there may be tokens in it that nobody knows yet.
	failure.response.Body = ""
	switch {
	case answer.AccessToken == "" && failure.Code != "": // as some do, who answer 200 always
		return grant{}, failure, nil
	case err != nil, isToken("", answer.AccessToken) != nil, len(answer.RefreshToken) > maxSecret:
		failure.Reason = "the token endpoint's answer has no access token that can be used"
		return grant{}, failure, nil
	case answer.TokenType != "" && !strings.EqualFold(answer.TokenType, "bearer"):
		failure.Reason = "the token endpoint's answer is no bearer token"
		return grant{}, failure, nil
	}
	got = grant{accessToken: answer.AccessToken, lifetime: lifetime(answer.ExpiresIn)}
	if answer.RefreshToken != known.refreshToken {
		got.refreshToken = answer.RefreshToken
	}
	return got, nil, nil
}

func tokenRequest(ctx context.Context, r api.CredentialRefresh, known secrets) (*http.Request, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {known.refreshToken}}
	if r.Scope != nil {
		form.Set("scope", *r.Scope)
	}
	if r.Resource != nil {
		form.Set("resource", *r.Resource)
	}
	if r.TokenEndpointAuth.Type != api.ClientSecretBasic {
		form.Set("client_id", r.ClientID)
	}
	if r.TokenEndpointAuth.Type == api.ClientSecretPost {
		form.Set("client_secret", known.clientSecret)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	// A request that has been sent once is never sent again by itself: the refresh
	// token in it may have been used.
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	if r.TokenEndpointAuth.Type == api.ClientSecretBasic {
		request.SetBasicAuth(url.QueryEscape(r.ClientID), url.QueryEscape(known.clientSecret))
	}
	return request, nil
}

var isErrorCode = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// lifetime reads expires_in, which some send as a text.
func lifetime(raw json.RawMessage) time.Duration {
	seconds, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64)
	if err != nil || seconds <= 0 {
		return 0
	}
	return time.Duration(min(seconds, int64(maxLifetime/time.Second))) * time.Second
}

func unreachable(err error) *Failure {
	f := &Failure{Outcome: api.RefreshConnectError, Reason: "the token endpoint could not be reached"}
	if refused, ok := outbound.Refused(err); ok {
		f.Reason = "the token endpoint " + refused.Error()
	}
	return f
}

// bare is an error without the URL, whose query may be secret.
func bare(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// show makes of an answer what clients may see of it.
func show(response *http.Response, body []byte, known secrets) *api.HTTPResponse {
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	text := strings.ToValidUTF8(string(scrub(body, known)), "\uFFFD")
	out := &api.HTTPResponse{StatusCode: response.StatusCode, ContentType: kind, Body: text}
	if len(text) > maxShown {
		out.Body, out.BodyTruncated = strings.ToValidUTF8(text[:maxShown], ""), true
	}
	return out
}

// scrub takes secrets out of a text, in each form that an echo of the request could
// have them in.
func scrub(text []byte, known secrets) []byte {
	for _, secret := range []string{known.token, known.refreshToken, known.clientSecret} {
		if secret == "" {
			continue
		}
		quoted, err := json.Marshal(secret)
		if err != nil {
			panic(fmt.Errorf("encode a text: %w", err)) // texts always encode
		}
		for _, form := range []string{secret, string(quoted[1 : len(quoted)-1]), url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
			text = bytes.ReplaceAll(text, []byte(form), []byte("[secret]"))
		}
	}
	return text
}
