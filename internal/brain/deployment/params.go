package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"hearth/api"
)

// Params are the fields of a request to create or update a deployment.
type Params struct {
	Name          api.Optional[string]             `json:"name"`
	Description   api.Optional[string]             `json:"description"`
	Agent         api.Optional[json.RawMessage]    `json:"agent"`
	EnvironmentID api.Optional[string]             `json:"environment_id"`
	InitialEvents api.Optional[[]json.RawMessage]  `json:"initial_events"`
	Resources     api.Optional[[]json.RawMessage]  `json:"resources"`
	VaultIDs      api.Optional[[]string]           `json:"vault_ids"`
	Budget        api.Optional[json.RawMessage]    `json:"budget"`
	Schedule      api.Optional[scheduleParams]     `json:"schedule"`
	Metadata      api.Optional[map[string]*string] `json:"metadata"`
}

type scheduleParams struct {
	Type       string `json:"type"`
	Expression string `json:"expression"`
	Timezone   string `json:"timezone"`
}

// The limits of deployments.
const (
	maxName        = 256
	maxDescription = 2048
	maxVaults      = 50
)

// apply is set, and checks that a session could be started of the result.
func (s *Store) apply(ctx context.Context, p Params, r *record) error {
	if err := p.set(r, s.Sealer); err != nil {
		return err
	}
	if !p.Agent.Given() && !p.EnvironmentID.Given() && !p.InitialEvents.Given() && !p.Resources.Given() && !p.VaultIDs.Given() && !p.Budget.Given() {
		return nil
	}
	session, err := s.session(ctx, r)
	if err != nil {
		return err
	}
	if p.Agent.Given() {
		session.Agent = p.Agent.Value
	}
	r.Agent, err = s.Sessions.CheckDeployed(ctx, r.workspaceID, session)
	return err
}

// set changes a deployment as the params ask, but for its agent.
func (p Params) set(r *record, sealer Sealer) error {
	for field, null := range map[string]bool{
		"name": p.Name.Null, "agent": p.Agent.Null, "environment_id": p.EnvironmentID.Null, "initial_events": p.InitialEvents.Null,
	} {
		if null {
			return api.Invalid(field, "must not be null")
		}
	}
	if p.Name.Given() {
		if n := utf8.RuneCountInString(p.Name.Value); n == 0 || n > maxName {
			return api.Invalid("name", "must have 1 to %d characters", maxName)
		}
		r.Name = p.Name.Value
	}
	if p.Description.Set {
		if n := utf8.RuneCountInString(p.Description.Value); n > maxDescription {
			return api.Invalid("description", "has %d characters, at most %d are allowed", n, maxDescription)
		}
		if r.Description = p.Description.Pointer(); p.Description.Value == "" {
			r.Description = nil
		}
	}
	if p.Agent.Given() {
		var overrides struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(p.Agent.Value, &overrides) == nil && overrides.Type != "agent" {
			return api.Invalid("agent.type", "must be agent")
		}
	}
	if p.EnvironmentID.Given() {
		r.EnvironmentID = p.EnvironmentID.Value
	}
	if p.InitialEvents.Given() {
		if err := checkEvents(p.InitialEvents.Value); err != nil {
			return err
		}
		r.InitialEvents = p.InitialEvents.Value
	}
	if p.VaultIDs.Set {
		if n := len(p.VaultIDs.Value); n > maxVaults {
			return api.Invalid("vault_ids", "holds %d vaults, at most %d are allowed", n, maxVaults)
		}
		r.VaultIDs = append([]string{}, p.VaultIDs.Value...)
	}
	if p.Budget.Set {
		if r.Budget = p.Budget.Value; isNull(r.Budget) {
			r.Budget = json.RawMessage("null")
		} else if r.Budget[0] != '{' {
			return api.Invalid("budget", "must be an object such as {\"type\":\"limit\",\"max_list_cost\":{\"amount\":\"250\",\"currency\":\"USD\"}}")
		}
	}
	if p.Metadata.Given() {
		r.Metadata = maps.Clone(r.Metadata)
		if err := api.MergeMetadata(r.Metadata, p.Metadata.Value); err != nil {
			return err
		}
	}
	if p.Resources.Set {
		if err := r.setResources(p.Resources.Value, sealer); err != nil {
			return err
		}
	}
	return p.setSchedule(r)
}

// checkEvents checks that there is one that has the agent work. All else is
// checked where sessions are started.
func checkEvents(raws []json.RawMessage) error {
	if len(raws) == 0 {
		return api.Invalid("initial_events", "must hold at least one event")
	}
	for i, raw := range raws {
		var event struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &event); err != nil || isNull(raw) {
			return api.Invalid(fmt.Sprintf("initial_events[%d]", i), "must be an object with a type")
		}
		if slices.Contains([]string{string(api.EventUserMessage), string(api.EventUserDefineOutcome)}, event.Type) {
			return nil
		}
	}
	return api.Invalid("initial_events[0].type", "one of the events must be a user.message or a user.define_outcome")
}

func (p Params) setSchedule(r *record) error {
	if !p.Schedule.Set {
		return nil
	}
	if p.Schedule.Null {
		r.Schedule = nil
		return nil
	}
	given := p.Schedule.Value
	switch {
	case given.Type != "cron":
		return api.Invalid("schedule.type", "must be cron")
	case given.Expression == "":
		return api.Invalid("schedule.expression", "is required: minute, hour, day of month, month and day of week, as in \"0 9 * * 1-5\"")
	case given.Timezone == "":
		return api.Invalid("schedule.timezone", "is required: the name of a time zone, such as UTC or Europe/Paris")
	}
	if _, err := parseCron(given.Expression); err != nil {
		return err
	}
	if _, err := parseZone(given.Timezone); err != nil {
		return err
	}
	next := &api.Schedule{Type: given.Type, Expression: given.Expression, Timezone: given.Timezone}
	if r.Schedule != nil {
		next.LastRunAt = r.Schedule.LastRunAt
	}
	r.Schedule = next
	return nil
}

// tokenField is the field of a resource that is never shown.
const tokenField = "authorization_token"

// setResources keeps the resources as they are given, but for their tokens.
func (r *record) setResources(raws []json.RawMessage, sealer Sealer) error {
	r.Resources, r.tokens = make([]json.RawMessage, len(raws)), map[int]token{}
	for i, raw := range raws {
		at := fmt.Sprintf("resources[%d]", i)
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
			return api.Invalid(at, "must be an object")
		}
		if secret := fields[tokenField]; !isNull(secret) {
			var text string
			if err := json.Unmarshal(secret, &text); err != nil {
				return api.Invalid(at+"."+tokenField, "must be a string")
			}
			place := api.NewID(r.ID)
			r.tokens[i] = token{Place: place, Sealed: sealer.Seal(place, text)}
		}
		delete(fields, tokenField)
		kept, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		r.Resources[i] = kept
	}
	return nil
}

// session is what a run of the deployment starts, without an id.
func (s *Store) session(ctx context.Context, r *record) (Session, error) {
	agent, err := json.Marshal(r.Agent)
	if err != nil {
		return Session{}, err
	}
	out := Session{
		DeploymentID: r.ID, Title: r.Name, Agent: agent, EnvironmentID: r.EnvironmentID, InitialEvents: r.InitialEvents,
		Resources: slices.Clone(r.Resources), VaultIDs: r.VaultIDs,
	}
	if !isNull(r.Budget) {
		out.Budget = r.Budget
	}
	for i, t := range r.tokens {
		text, err := s.Sealer.Open(ctx, t.Place, t.Sealed)
		if err != nil {
			return Session{}, err
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(out.Resources[i], &fields); err != nil {
			return Session{}, err
		}
		if fields[tokenField], err = json.Marshal(text); err != nil {
			return Session{}, err
		}
		if out.Resources[i], err = json.Marshal(fields); err != nil {
			return Session{}, err
		}
	}
	return out, nil
}
