package api

import (
	"fmt"
	"sync/atomic"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/api"
	"hearth/client"
)

// ground is what sessions need: an agent with the built-in tools, a self_hosted
// environment and a key for its workers.
type ground struct {
	agentID, environmentID, key string
}

var grounds atomic.Int64

func (s *server) ground() ground {
	s.t.Helper()
	ctx := s.t.Context()
	agent, err := s.SDK.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{
		Name: "tester", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{
			Type: anthropic.BetaManagedAgentsAgentToolset20260401ParamsTypeAgentToolset20260401,
		}}},
	})
	must(s.t, err)
	environment, err := s.SDK.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{
		Name: fmt.Sprint("ground ", grounds.Add(1)), Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
	})
	must(s.t, err)
	key, err := s.Client.CreateKey(ctx, environment.ID, client.KeyParams{Name: "worker"})
	must(s.t, err)
	return ground{agent.ID, environment.ID, key.Key}
}

// env is how a TypeScript program is told of the ground.
func (g ground) env() []string {
	return []string{"HEARTH_AGENT=" + g.agentID, "HEARTH_ENVIRONMENT=" + g.environmentID, "HEARTH_ENVIRONMENT_KEY=" + g.key}
}

// session starts a session on the ground with a message, or an idle one with
// an empty text.
func (s *server) session(g ground, text string) *anthropic.BetaManagedAgentsSession {
	s.t.Helper()
	p := anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(g.agentID)}, EnvironmentID: g.environmentID,
	}
	if text != "" {
		p.InitialEvents = []anthropic.BetaSessionNewParamsInitialEventUnion{{OfUserMessage: said(text)}}
	}
	made, err := s.SDK.Beta.Sessions.New(s.t.Context(), p)
	must(s.t, err)
	return made
}

func said(text string) *anthropic.BetaManagedAgentsUserMessageEventParams {
	return &anthropic.BetaManagedAgentsUserMessageEventParams{
		Type:    anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
		Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Text: text, Type: anthropic.BetaManagedAgentsTextBlockTypeText}}},
	}
}

// worker is the SDK as a worker has it, with a bearer token and no API key.
func (s *server) worker(token string) anthropic.Client {
	return anthropic.NewClient(option.WithoutEnvironmentDefaults(), option.WithBaseURL(s.URL), option.WithAuthToken(token), option.WithMaxRetries(0))
}

// awaitIdle waits until the session is idle, and returns the event that says so.
func (s *server) awaitIdle(sessionID string) anthropic.BetaManagedAgentsSessionEventUnion {
	s.t.Helper()
	for {
		// The stream is opened first, so that what follows the list is not missed.
		stream := s.SDK.Beta.Sessions.Events.StreamEvents(s.t.Context(), sessionID, anthropic.BetaSessionEventStreamParams{})
		last, err := s.SDK.Beta.Sessions.Events.List(s.t.Context(), sessionID, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(1), Order: anthropic.BetaSessionEventListParamsOrderDesc})
		must(s.t, err)
		if len(last.Data) == 1 && last.Data[0].Type == string(api.EventSessionStatusIdle) {
			must(s.t, stream.Close())
			return last.Data[0]
		}
		if !stream.Next() {
			s.t.Fatalf("session %s does not become idle: %v", sessionID, stream.Err())
		}
		must(s.t, stream.Close())
	}
}
