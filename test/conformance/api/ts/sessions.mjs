// Every method of the sessions resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { sessions } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;
const agent = process.env.HEARTH_AGENT;
const environment_id = process.env.HEARTH_ENVIRONMENT;
const budget = (amount) => ({ type: 'limit', max_list_cost: { amount, currency: 'USD' } });

const made = await sessions.create({
  agent: { type: 'agent_with_overrides', id: agent, model: 'claude-haiku-4-5', system: null }, environment_id,
  title: 'typed', metadata: { team: 'risk' }, budget: budget('500'),
});
assert.equal(made.agent.model.id, 'claude-haiku-4-5');
assert.deepEqual(made.usage.list_cost, { amount: '0', currency: 'USD' });
const changed = await sessions.update(made.id, { title: null, metadata: { floor: '3' }, budget: null, agent: { tools: [] } });
assert.equal(changed.title, null);
assert.equal(changed.budget, null);
assert.deepEqual(changed.metadata, { team: 'risk', floor: '3' });
await assert.rejects(sessions.update(made.id, { budget: budget('500') }), Anthropic.BadRequestError);
assert.equal((await sessions.retrieve(made.id)).title, null);
const other = await sessions.create({ agent, environment_id });
const ids = [];
for await (const s of sessions.list({ limit: 1, agent_id: agent, statuses: ['idle'] })) ids.push(s.id);
assert.deepEqual(ids, [other.id, made.id]);
const first = await sessions.list({ limit: 1, agent_id: agent, order: 'asc' });
const second = await first.getNextPage();
assert.equal(second.data[0].id, other.id);
assert.ok(second.prev_page);
assert.equal((await sessions.archive(made.id)).status, 'terminated');
assert.equal((await sessions.delete(other.id)).id, other.id);
await assert.rejects(sessions.retrieve(other.id), Anthropic.NotFoundError);
