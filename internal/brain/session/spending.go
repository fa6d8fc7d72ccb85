package session

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"hearth/api"
	"hearth/internal/brain/price"
)

// ErrBudgetReached is returned by BeginRequest when the session's budget allows
// no more requests. The session has been made idle and the run released.
var ErrBudgetReached = errors.New("the session's budget is reached")

// consumed is what model requests have used: those of a session, or of a thread.
type consumed struct {
	inputTokens, outputTokens, cacheRead, cacheWrite int64

	cacheWrite1h            int64 // tokens, part of cacheWrite
	webSearches, webFetches int64
	cost                    int64 // billionths of a dollar
	unpriced                bool  // a model without a price was used
}

const (
	consumedColumns = "input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, web_searches, web_fetches, cost, unpriced"
	consumedMarks   = "?, ?, ?, ?, ?, ?, ?, ?, ?"
	consumedSet     = "input_tokens = ?, output_tokens = ?, cache_read_tokens = ?, cache_write_tokens = ?, cache_write_1h_tokens = ?, web_searches = ?, web_fetches = ?, cost = ?, unpriced = ?"
)

func (c *consumed) fields() []any {
	return []any{&c.inputTokens, &c.outputTokens, &c.cacheRead, &c.cacheWrite, &c.cacheWrite1h, &c.webSearches, &c.webFetches, &c.cost, &c.unpriced}
}

func (c *consumed) values() []any {
	return []any{c.inputTokens, c.outputTokens, c.cacheRead, c.cacheWrite, c.cacheWrite1h, c.webSearches, c.webFetches, c.cost, c.unpriced}
}

// add counts a request, and what it has cost if that is known.
func (c *consumed) add(u api.ModelUsage, cost int64, priced bool) {
	c.inputTokens += u.InputTokens
	c.outputTokens += u.OutputTokens
	c.cacheRead += u.CacheReadInputTokens
	c.cacheWrite += u.CacheCreationInputTokens
	c.cacheWrite1h += min(u.CacheWrite1h, u.CacheCreationInputTokens)
	c.webSearches += u.WebSearches
	c.webFetches += u.WebFetches
	c.cost += cost
	c.unpriced = c.unpriced || !priced
}

// without is what is left of it when a part is taken away. Whether the rest has a
// price is not known when the whole has none.
func (c *consumed) without(part consumed) consumed {
	return consumed{
		inputTokens: c.inputTokens - part.inputTokens, outputTokens: c.outputTokens - part.outputTokens,
		cacheRead: c.cacheRead - part.cacheRead, cacheWrite: c.cacheWrite - part.cacheWrite, cacheWrite1h: c.cacheWrite1h - part.cacheWrite1h,
		webSearches: c.webSearches - part.webSearches, webFetches: c.webFetches - part.webFetches,
		cost: c.cost - part.cost, unpriced: c.unpriced,
	}
}

// listCost is what it has cost, in whole cents, or nothing when that is not known.
func (c *consumed) listCost() api.Money {
	if c.unpriced {
		return api.Money{}
	}
	return dollars(strconv.FormatInt(c.cost/price.NanosPerCent, 10))
}

// usage is it on the wire, with the microseconds of activity up to now.
func (c *consumed) usage(now time.Time, active int64, since sql.NullInt64) api.SessionUsage {
	if since.Valid {
		active += max(0, now.UnixMicro()-since.Int64)
	}
	return api.SessionUsage{
		InputTokens: c.inputTokens, OutputTokens: c.outputTokens, CacheReadInputTokens: c.cacheRead,
		CacheCreation: api.CacheCreation{Ephemeral1h: c.cacheWrite1h, Ephemeral5m: c.cacheWrite - c.cacheWrite1h},
		ActiveSeconds: float64(active) / 1e6,
		ListCost:      c.listCost(),
		ServerToolUse: api.ServerToolUse{WebFetchRequests: c.webFetches, WebSearchRequests: c.webSearches},
	}
}

// spending is the part of a row that is about money.
type spending struct {
	limit string // the budget's amount in cents; "" for no budget
	consumed
}

const (
	spendingColumns = "budget, " + consumedColumns
	spendingMarks   = "?, " + consumedMarks
	spendingSet     = "budget = ?, " + consumedSet
)

func (s *spending) fields() []any { return append([]any{&s.limit}, s.consumed.fields()...) }

func (s *spending) values() []any { return append([]any{s.limit}, s.consumed.values()...) }

// budget is the budget on the wire, or null.
func (s *spending) budget() json.RawMessage {
	if s.limit == "" {
		return json.RawMessage("null")
	}
	raw, _ := json.Marshal(api.Budget{Type: budgetLimit, MaxListCost: dollars(s.limit)}) // strings always encode
	return raw
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
	var agent api.SessionAgent
	err := json.Unmarshal([]byte(m.agent), &agent)
	if err == nil {
		agent, err = m.t.thinker(agent)
	}
	if err != nil {
		return fmt.Errorf("decode the agent of session %s: %w", m.id, err)
	}
	cost, priced := m.store.prices.Cost(agent.Model, u)
	m.add(u, cost, priced)
	if !m.t.primary() { // which has what is left of the session's
		m.t.add(u, cost, priced)
	}
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
