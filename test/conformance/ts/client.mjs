// Drives a server with the official client, as an application would, and prints
// one line of JSON: what it found. A failure is an exception.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema';

const { HEARTH_URL, HEARTH_KEY } = process.env;
const client = new Anthropic({ baseURL: HEARTH_URL, apiKey: HEARTH_KEY });
const beta = client.beta;
const unique = Math.random().toString(36).slice(2);
const done = [];
const step = async (name, run) => {
  await run();
  done.push(name);
};

let environment, agent, session;
await step('environments', async () => {
  environment = await beta.environments.create({ name: `ts-${unique}`, config: { type: 'self_hosted' } });
  assert.equal(environment.config.type, 'self_hosted');
  assert.equal((await beta.environments.retrieve(environment.id)).name, environment.name);
  const updated = await beta.environments.update(environment.id, { metadata: { a: '1' } });
  assert.deepEqual(updated.metadata, { a: '1' });
  const names = [];
  for await (const e of beta.environments.list({ limit: 2 })) names.push(e.id);
  assert.ok(names.includes(environment.id));
  await assert.rejects(beta.environments.create({ name: environment.name }), (e) => e.status === 409);
});
await step('agents', async () => {
  agent = await beta.agents.create({
    name: 'ts',
    model: 'rehearsal',
    tools: [
      { type: 'agent_toolset_20260401' },
      { type: 'custom', name: 'weather', description: 'Says the weather.', input_schema: { type: 'object', properties: {} } },
    ],
  });
  assert.equal(agent.version, 1);
  const second = await beta.agents.update(agent.id, { version: 1, system: 'Be brief.' });
  assert.equal(second.version, 2);
  await assert.rejects(beta.agents.update(agent.id, { version: 1, system: 'no' }), (e) => e.status === 409);
  assert.equal((await beta.agents.retrieve(agent.id, { version: 1 })).system, null);
});
await step('errors', async () => {
  await assert.rejects(beta.sessions.retrieve('sesn_none'), (e) => e instanceof Anthropic.NotFoundError && !!e.requestID);
  await assert.rejects(beta.agents.create({ name: '', model: 'm' }), (e) => e instanceof Anthropic.BadRequestError && /name/.test(e.message));
});
await step('sessions', async () => {
  session = await beta.sessions.create({ agent: agent.id, environment_id: environment.id, title: 'ts' });
  assert.equal(session.status, 'idle');
  assert.equal((await beta.sessions.update(session.id, { metadata: { k: 'v' } })).metadata.k, 'v');
  const ids = [];
  for await (const s of beta.sessions.list({ agent_id: agent.id, limit: 1 })) ids.push(s.id);
  assert.deepEqual(ids, [session.id]);
});
await step('stream and previews', async () => {
  const stream = await beta.sessions.events.stream(session.id, { event_deltas: ['agent.message'] });
  await beta.sessions.events.send(session.id, { events: [{ type: 'user.message', content: [{ type: 'text', text: 'hello' }] }] });
  const types = [];
  let previewed, message;
  for await (const event of stream) {
    types.push(event.type);
    if (event.type === 'event_start') previewed = event.event.id;
    if (event.type === 'agent.message') message = event;
    if (event.type === 'session.status_idle') break;
  }
  assert.equal(types.at(-1), 'session.status_idle');
  assert.equal(message.id, previewed);
  assert.match(message.content[0].text, /not a language model/);
});
await step('session tool runner', async () => {
  const weather = betaTool({
    name: 'weather',
    description: 'Says the weather.',
    inputSchema: { type: 'object', properties: {} },
    run: async () => 'sunny',
  });
  await beta.sessions.events.send(session.id, {
    events: [{ type: 'user.message', content: [{ type: 'text', text: 'tool weather {"city":"Bern"}' }] }],
  });
  const calls = [];
  for await (const call of beta.sessions.events.toolRunner(session.id, { tools: [weather], maxIdleMs: 200 })) calls.push(call);
  assert.equal(calls.length, 1);
  const results = [];
  for await (const e of beta.sessions.events.list(session.id, { types: ['user.custom_tool_result'] })) results.push(e);
  assert.equal(results[0].content[0].text, 'sunny');
});
await step('lists', async () => {
  const asc = [];
  const desc = [];
  for await (const e of beta.sessions.events.list(session.id, { limit: 3 })) asc.push(e.id);
  for await (const e of beta.sessions.events.list(session.id, { limit: 4, order: 'desc' })) desc.push(e.id);
  assert.deepEqual(asc, desc.reverse());
  assert.equal(new Set(asc).size, asc.length);
});
await step('end', async () => {
  const archived = await beta.sessions.archive(session.id);
  assert.equal(archived.status, 'terminated');
  assert.equal((await beta.sessions.delete(session.id)).type, 'session_deleted');
  assert.equal((await beta.environments.delete(environment.id)).type, 'environment_deleted');
});
console.log(JSON.stringify({ done }));
