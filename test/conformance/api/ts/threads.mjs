// Every method of the threads of sessions, and of their events, of the official
// TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { HEARTH_URL, HEARTH_KEY, HEARTH_AGENT, HEARTH_ENVIRONMENT } = process.env;
const { sessions } = new Anthropic({ baseURL: HEARTH_URL, apiKey: HEARTH_KEY, maxRetries: 0 }).beta;

const session = await sessions.create({ agent: HEARTH_AGENT, environment_id: HEARTH_ENVIRONMENT });
assert.equal(session.agent.multiagent.agents[0].name, 'helper');
const followed = await sessions.events.stream(session.id);
await sessions.events.send(session.id, { events: [{ type: 'user.message', content: [{ type: 'text', text: '@helper say what you are' }] }] });
const seen = [];
for await (const event of followed) {
  seen.push(event.type);
  if (event.type === 'session.status_idle') break;
}
for (const type of ['session.thread_created', 'agent.thread_message_sent', 'agent.thread_message_received', 'session.thread_status_idle']) {
  assert.ok(seen.includes(type), `${type} is not in ${seen}`);
}

const threads = [];
for await (const thread of sessions.threads.list(session.id, { statuses: ['idle'] })) threads.push(thread);
assert.equal(threads.length, 2);
assert.equal(threads[0].parent_thread_id, null);
const id = threads[1].id;
const of = { session_id: session.id };
assert.equal((await sessions.threads.retrieve(id, of)).agent.name, 'helper');
const types = [];
for await (const event of sessions.threads.events.list(id, { ...of, limit: 3 })) types.push(event.type);
assert.equal(types[0], 'agent.thread_message_received');
assert.ok(types.includes('agent.message'));

const stream = await sessions.threads.events.stream(id, of);
assert.equal((await sessions.threads.archive(id, of)).status, 'terminated');
const live = [];
for await (const event of stream) live.push(event.type);
assert.deepEqual(live, ['session.thread_status_terminated']);
