package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/gateway"
)

func (s *server) modelRoutes() []route {
	return []route{
		{"GET", "/v1/models", viewer, s.listModels},
		{"GET", "/v1/models/{model_id}", viewer, s.getModel},
		{"POST", "/v1/messages", developer, s.createMessage},
		{"POST", "/v1/messages/count_tokens", developer, s.createMessage},
	}
}

// createMessage asks the provider, as does counting the tokens of a message.
func (s *server) createMessage(r *request) (any, error) {
	if s.Gateway == nil {
		return nil, &api.Error{Status: http.StatusNotFound, Type: api.ErrNotFound, Message: "this server has no model to pass messages to: it thinks with rehearsal, which is no language model; start it with HEARTH_MODEL_API_KEY, and --model-base-url if need be"}
	}
	if r.ContentLength > MaxBody {
		return nil, &http.MaxBytesError{Limit: MaxBody}
	}
	return s.pass(r, r.URL.Path)
}

func (s *server) pass(r *request, path string) (any, error) {
	err := s.Gateway.Pass(r.w, r.Request, path, func(p gateway.Passed) {
		r.note("provider_request_id", p.ProviderRequestID)
		if p.Model != "" {
			r.note("model", p.Model)
			r.note("input_tokens", p.Usage.InputTokens, "output_tokens", p.Usage.OutputTokens,
				"cache_creation_input_tokens", p.Usage.CacheCreationInputTokens, "cache_read_input_tokens", p.Usage.CacheReadInputTokens)
		}
		if p.Cut {
			r.note("cut", true)
		}
	})
	return written, err
}

// rehearsalModel is the one model of a server without a provider.
var rehearsalModel = api.ModelInfo{
	ID: "rehearsal", Type: "model", DisplayName: "Rehearsal (no language model: it follows instructions in the message)",
	Lifecycle: api.ModelActive, CreatedAt: time.Unix(0, 0).UTC(),
}

// lifecycles are what a model may be in.
var lifecycles = []string{api.ModelActive, "deprecated", "retired"}

// listModels has the query checked before a provider is asked, which would be
// asked with the operator's credential.
func (s *server) listModels(r *request) (any, error) {
	q := r.params()
	q.limitTo(1000)
	wanted := q.list("lifecycle")
	for _, one := range wanted {
		if !slices.Contains(lifecycles, one) {
			q.fail("lifecycle[]", "must be one of %s, not %.40q", strings.Join(lifecycles, ", "), one)
		}
	}
	if q.err != nil {
		return nil, q.err
	}
	if s.Gateway != nil {
		return s.pass(r, "/v1/models")
	}
	page := api.ModelPage{Data: []api.ModelInfo{}}
	if q.text("after_id") == "" && q.text("before_id") == "" && (len(wanted) == 0 || slices.Contains(wanted, api.ModelActive)) {
		page = api.ModelPage{Data: []api.ModelInfo{rehearsalModel}, FirstID: &rehearsalModel.ID, LastID: &rehearsalModel.ID}
	}
	return page, nil
}

func (s *server) getModel(r *request) (any, error) {
	id := r.PathValue("model_id")
	switch {
	case s.Gateway == nil && id == rehearsalModel.ID:
		return rehearsalModel, nil
	case s.Gateway == nil, !isModelID(id):
		return nil, api.NotFound("model", id)
	}
	return s.pass(r, "/v1/models/"+url.PathEscape(id))
}

// isModelID tells whether an id may be put into the path of a request that bears
// the operator's credential, whatever stands between here and the provider.
func isModelID(id string) bool {
	return id != "" && len(id) <= 256 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:@/") == "" &&
		!strings.Contains(id, "..") && !strings.HasPrefix(id, "/") && !strings.HasPrefix(id, ".")
}
