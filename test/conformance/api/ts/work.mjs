// Every method of the work resource of the official TypeScript SDK, through the
// life of one item.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const baseURL = process.env.HEARTH_URL;
const environment_id = process.env.HEARTH_ENVIRONMENT;
const app = new Anthropic({ baseURL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;
const bearer = (authToken) => new Anthropic({ baseURL, apiKey: null, authToken, maxRetries: 0 }).beta.environments.work;
const worker = bearer(process.env.HEARTH_ENVIRONMENT_KEY);

assert.equal(await worker.poll(environment_id, { 'Anthropic-Worker-ID': 'w1' }), null);
const session = await app.sessions.create({
  agent: process.env.HEARTH_AGENT, environment_id,
  initial_events: [{ type: 'user.message', content: [{ type: 'text', text: '$ true' }] }],
});
const item = await worker.poll(environment_id, { block_ms: 999, reclaim_older_than_ms: 60_000, 'Anthropic-Worker-ID': 'w1' });
assert.equal(item.data.id, session.id);
assert.equal((await app.environments.work.stats(environment_id)).pending, 1);
assert.equal((await worker.ack(item.id, { environment_id })).state, 'starting');
const { sessions_token } = JSON.parse(Buffer.from(item.secret, 'base64url'));
const lease = bearer(sessions_token);
const first = await lease.heartbeat(item.id, { environment_id, expected_last_heartbeat: 'NO_HEARTBEAT' });
const second = await lease.heartbeat(item.id, { environment_id, expected_last_heartbeat: first.last_heartbeat });
assert.equal(second.lease_extended, true);
assert.equal(second.state, 'active');
await assert.rejects(lease.heartbeat(item.id, { environment_id, expected_last_heartbeat: 'never' }), { status: 412 });
await app.environments.work.update(item.id, { environment_id, metadata: { host: 'a' } });
assert.deepEqual((await app.environments.work.retrieve(item.id, { environment_id })).metadata, { host: 'a' });
const ids = [];
for await (const w of worker.list(environment_id, { limit: 1 })) ids.push(w.id);
assert.deepEqual(ids, [item.id]);
assert.equal((await lease.stop(item.id, { environment_id, force: true })).state, 'stopped');
