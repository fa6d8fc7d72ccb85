package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"hearth/api"
	"hearth/internal/brain/price"
)

// ErrBudgetReached is returned by BeginRequest when the session's budget allows
// no more requests. The session has been made idle and the run released.
var ErrBudgetReached = errors.New("the session's budget is reached")

// spending is the part of a row that is about money.
type spending struct {
	limit                   string // the budget's amount in cents; "" for no budget
	cost                    int64  // billionths of a dollar
	unpriced                bool   // a model without a price was used
	cacheWrite1h            int64  // tokens, part of cacheWrite
	webSearches, webFetches int64
}

const (
	spendingColumns = "budget, cost, unpriced, cache_write_1h_tokens, web_searches, web_fetches"
	spendingMarks   = "?, ?, ?, ?, ?, ?"
	spendingSet     = "budget = ?, cost = ?, unpriced = ?, cache_write_1h_tokens = ?, web_searches = ?, web_fetches = ?"
)

func (s *spending) fields() []any {
	return []any{&s.limit, &s.cost, &s.unpriced, &s.cacheWrite1h, &s.webSearches, &s.webFetches}
}

func (s *spending) values() []any {
	return []any{s.limit, s.cost, s.unpriced, s.cacheWrite1h, s.webSearches, s.webFetches}
}

// budget is the budget on the wire, or null.
func (s *spending) budget() json.RawMessage {
	if s.limit == "" {
		return json.RawMessage("null")
	}
	raw, _ := json.Marshal(api.Budget{Type: budgetLimit, MaxListCost: dollars(s.limit)}) // strings always encode
	return raw
}

// listCost is what the session has cost, in whole cents, or nothing when that
// is not known.
func (s *spending) listCost() api.Money {
	if s.unpriced {
		return api.Money{}
	}
	return dollars(strconv.FormatInt(s.cost/price.NanosPerCent, 10))
}

func dollars(cents string) api.Money { return api.Money{Amount: cents, Currency: currency} }

// exhausted tells whether the budget allows no more requests: it is spent, or
// cannot be held against what was used.
func (s *spending) exhausted() bool {
	limit, err := strconv.ParseInt(s.limit, 10, 64)
	return err == nil && (s.unpriced || s.cost >= limit*price.NanosPerCent)
}

const (
	budgetLimit = "limit"
	currency    = "USD"
	maxDigits   = 11 // of an amount: below a billion dollars
)

// parseBudget reads a budget as requests give it, and returns its cents.
func parseBudget(raw json.RawMessage) (string, error) {
	var b api.Budget
	if err := decode("budget", raw, &b); err != nil {
		return "", err
	}
	amount := b.MaxListCost.Amount
	cents, err := strconv.ParseInt(amount, 10, 64)
	switch {
	case b.Type != budgetLimit:
		return "", api.Invalid("budget.type", "must be limit")
	case err != nil || cents < 1 || amount != strconv.FormatInt(cents, 10) || len(amount) > maxDigits:
		return "", api.Invalid("budget.max_list_cost.amount", `must be a whole number of cents above 0, as a string of at most %d digits without leading zeros: "250" is $2.50`, maxDigits)
	case b.MaxListCost.Currency != currency:
		return "", api.Invalid("budget.max_list_cost.currency", "must be %s", currency)
	}
	return amount, nil
}

// budgetable checks that every request of an agent, and of those that it may call
// on, can be held against a budget.
func (s *Store) budgetable(agent api.SessionAgent) error {
	members, err := Roster(agent)
	if err != nil {
		return err
	}
	if err := s.priced(agent.Model); err != nil {
		return err
	}
	for _, member := range members {
		who, err := (&thread{number: 1, agent: string(member.raw)}).thinker(agent)
		if err != nil {
			return err
		}
		if err := s.priced(who.Model); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) priced(model api.ModelConfig) error {
	if s.prices.Prices(model) {
		return nil
	}
	speed := ""
	if model.Speed != "" {
		speed = " at speed " + model.Speed
	}
	return api.Invalid("budget", "the model %.80q%s has no list price on this server, so that a budget cannot be held; see hearth serve --prices", model.ID, speed).WithCode("model_not_budgetable")
}

// spend counts what a request of the thread's agent has used.
func (m *mutation) spend(u api.ModelUsage) error {
	m.inputTokens += u.InputTokens
	m.outputTokens += u.OutputTokens
	m.cacheRead += u.CacheReadInputTokens
	m.cacheWrite += u.CacheCreationInputTokens
	m.cacheWrite1h += min(u.CacheWrite1h, u.CacheCreationInputTokens)
	m.webSearches += u.WebSearches
	m.webFetches += u.WebFetches
	var agent api.SessionAgent
	err := json.Unmarshal([]byte(m.agent), &agent)
	if err == nil {
		agent, err = m.t.thinker(agent)
	}
	if err != nil {
		return fmt.Errorf("decode the agent of session %s: %w", m.id, err)
	}
	cost, ok := m.store.prices.Cost(agent.Model, u)
	m.cost += cost
	m.unpriced = m.unpriced || !ok
	return nil
}

// hold stops the thread's turn for the budget. What is queued waits, with the
// turn, for a higher one.
func (m *mutation) hold() error {
	m.t.held = true
	m.t.release()
	return m.change(causeEnd, api.StopReason{Type: api.StopBudgetReached}, nil)
}

// onlyAnswers refuses what would begin more work in a session whose budget is
// reached.
func (m *mutation) onlyAnswers(inputs []input) error {
	if !m.exhausted() {
		return nil
	}
	for _, in := range inputs {
		switch in.event.Head().Type {
		case api.EventUserToolConfirmation, api.EventUserToolResult, api.EventUserCustomToolResult, api.EventUserInterrupt:
		default:
			return api.Invalid(in.path+".type", "the budget of session %s is reached: until it is raised or removed, only user.tool_confirmation, user.tool_result, user.custom_tool_result and user.interrupt are taken", m.id).WithCode("budget_reached")
		}
	}
	return nil
}

// setBudget replaces the budget, or removes it with null, and tells whether it
// has changed.
func (m *mutation) setBudget(to api.Optional[json.RawMessage]) (changed bool, err error) {
	limit := ""
	if !to.Null {
		if limit, err = parseBudget(to.Value); err != nil {
			return false, err
		}
	}
	before := m.limit
	if limit == "" && before == "" {
		return false, nil
	}
	if before == "" {
		return false, api.Invalid("budget", "session %s has no budget, and one can be given only when a session is created", m.id).WithCode("budget_create_only")
	}
	if m.limit = limit; limit == "" {
		return true, nil
	}
	if err := m.priced(); err != nil {
		return false, err
	}
	if m.exhausted() {
		return false, api.Invalid("budget.max_list_cost.amount", "must be above the %s cents that session %s has cost already", m.listCost().Amount, m.id).WithCode("budget_not_raised")
	}
	return limit != before, nil
}

// priced checks that what the session has used, and will, has a price.
func (m *mutation) priced() error {
	var agent api.SessionAgent
	if err := json.Unmarshal([]byte(m.agent), &agent); err != nil {
		return fmt.Errorf("decode the agent of session %s: %w", m.id, err)
	}
	if m.unpriced {
		return api.Invalid("budget", "session %s has used a model without a list price, so that a budget cannot be held; remove it with null", m.id).WithCode("model_not_budgetable")
	}
	return m.store.budgetable(agent)
}

// resume lets the turns go on that the budget had stopped, if it allows that now.
// While threads are being stopped nothing begins; it is called again after that.
func (m *mutation) resume() error {
	if stopping, err := m.stopping(); stopping || m.exhausted() || err != nil {
		return err
	}
	if err := m.loadLive(); err != nil {
		return err
	}
	for _, t := range append(m.inOrder(), &m.primary) {
		if !t.held {
			continue
		}
		if err := m.on(t, m.start); err != nil {
			return err
		}
	}
	return nil
}
