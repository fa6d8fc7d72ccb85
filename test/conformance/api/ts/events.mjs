// Every method of the events resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const baseURL = process.env.HEARTH_URL;
const { sessions } = new Anthropic({ baseURL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;
const worker = new Anthropic({ baseURL, apiKey: null, authToken: process.env.HEARTH_ENVIRONMENT_KEY, maxRetries: 0 }).beta.sessions;

const session = await sessions.create({ agent: process.env.HEARTH_AGENT, environment_id: process.env.HEARTH_ENVIRONMENT });
const stream = await sessions.events.stream(session.id, { event_deltas: ['agent.message'] });
const sent = await sessions.events.send(session.id, { events: [{ type: 'user.message', content: [{ type: 'text', text: '$ true' }] }] });
assert.equal(sent.data[0].type, 'user.message');

const streamed = [];
for await (const event of stream) {
  if (event.type === 'event_start' || event.type === 'event_delta') continue; // best effort, and never listed
  streamed.push(event.id);
  if (event.type !== 'session.status_idle') continue;
  if (event.stop_reason.type !== 'requires_action') break;
  await worker.events.send(session.id, { events: [{ type: 'user.tool_result', tool_use_id: event.stop_reason.event_ids[0] }] });
}
const listed = [];
for await (const event of sessions.events.list(session.id, { limit: 3 })) listed.push(event.id);
assert.deepEqual(listed, streamed);
const latest = await sessions.events.list(session.id, { limit: 1, order: 'desc', types: ['session.usage'] });
assert.equal(latest.data[0].usage.list_cost.currency, 'USD');
