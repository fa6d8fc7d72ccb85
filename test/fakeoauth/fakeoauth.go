// Package fakeoauth plays an OAuth token endpoint and an MCP server that takes its
// tokens. Refresh tokens are good for one use: one that is used again is refused,
// and counted. What it refuses it echoes, as careless servers do, so that a test
// sees whether secrets are shown.
package fakeoauth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Server is both servers.
type Server struct {
	MCP   string // the URL of the MCP server
	Token string // the URL of the token endpoint

	// What clients must authenticate with, set before use. Without a Secret they are public.
	ClientID, Secret string
	// Lifetime is how long access tokens last, in seconds; 0 does not say.
	Lifetime int
	// Streams has the MCP server answer with events.
	Streams bool
	// Before is called before a refresh is answered, if it is set.
	Before func(form url.Values)
	// Trouble is a status that the token endpoint answers with, if it is set; MCPTrouble
	// one of the MCP server.
	Trouble, MCPTrouble int

	mu        sync.Mutex
	access    string   // guarded by mu, as is what follows
	refresh   string   // the one that is good
	given     []string // every token that was ever good
	exchanges int      // refreshes that were granted
	reused    int      // refreshes that were refused
	forms     []url.Values
}

// New starts the servers with an access token and a refresh token that are good. They
// end with the test.
func New(tb testing.TB, access, refresh string) *Server {
	s := &Server{ClientID: "hearth-client", access: access, refresh: refresh, given: []string{access, refresh}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("POST /mcp", s.mcp)
	mux.HandleFunc("DELETE /mcp", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	at := httptest.NewServer(mux)
	tb.Cleanup(at.Close)
	s.MCP, s.Token = at.URL+"/mcp", at.URL+"/token"
	return s
}

// Given is every token that was ever good, all of them secret.
func (s *Server) Given() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.given...)
}

// Counts says how many refreshes were granted, and how many refused because their
// token had been used.
func (s *Server) Counts() (granted, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchanges, s.reused
}

// Forms are the requests to the token endpoint.
func (s *Server) Forms() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]url.Values{}, s.forms...)
}

// Access is the access token that is good now.
func (s *Server) Access() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access
}

// Expire makes the access token worthless, whatever the client thinks.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access = "nobody has this one"
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.Before != nil {
		s.Before(r.PostForm)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forms = append(s.forms, r.PostForm)
	answer := func(status int, body map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body) // the client may be gone
	}
	switch {
	case s.Trouble != 0:
		answer(s.Trouble, map[string]any{"error": "server_error", "error_description": "while handling " + r.PostForm.Encode()})
	case !s.knows(r):
		answer(http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "who is " + r.PostForm.Encode() + r.Header.Get("Authorization")})
	case r.PostForm.Get("grant_type") != "refresh_token", r.PostForm.Get("refresh_token") != s.refresh:
		s.reused++
		answer(http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": "no good: " + r.PostForm.Get("refresh_token")})
	default:
		s.exchanges++
		s.access, s.refresh = fmt.Sprintf("access-token-number-%d", s.exchanges), fmt.Sprintf("refresh-token-number-%d", s.exchanges)
		s.given = append(s.given, s.access, s.refresh)
		body := map[string]any{"access_token": s.access, "refresh_token": s.refresh, "token_type": "Bearer"}
		if s.Lifetime != 0 {
			body["expires_in"] = s.Lifetime
		}
		answer(http.StatusOK, body)
	}
}

// knows tells whether the client has authenticated as it should, in either way.
func (s *Server) knows(r *http.Request) bool {
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	return id == s.ClientID && secret == s.Secret
}

func (s *Server) mcp(w http.ResponseWriter, r *http.Request) {
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if bearer != s.Access() {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "I do not know "+bearer, http.StatusUnauthorized)
		return
	}
	if s.MCPTrouble != 0 {
		http.Error(w, "not with "+bearer, s.MCPTrouble)
		return
	}
	var message struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	result := map[string]any{"tools": []any{}}
	switch {
	case message.Method == "initialize":
		w.Header().Set("MCP-Session-Id", "session-1")
		result = map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{}, "serverInfo": map[string]string{"name": "fake", "version": "1"}}
	case r.Header.Get("MCP-Session-Id") != "session-1", r.Header.Get("MCP-Protocol-Version") != "2025-06-18":
		http.Error(w, "no session", http.StatusBadRequest)
		return
	case message.ID == nil:
		w.WriteHeader(http.StatusAccepted)
		return
	}
	raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": message.ID, "result": result})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if s.Streams {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, ": hello\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\nevent: message\ndata: %s\n\n", raw)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(raw) // the client may be gone
}
