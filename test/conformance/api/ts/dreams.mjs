// Every method of the dreams resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { dreams } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const inputs = [
  { type: 'memory_store', memory_store_id: process.env.HEARTH_STORE },
  { type: 'sessions', session_ids: [process.env.HEARTH_SESSION] },
];
const made = await dreams.create({ model: { id: 'claude-opus-4-5', speed: 'standard' }, inputs, instructions: 'Keep it short.' });
assert.equal(made.status, 'pending');
assert.deepEqual((await dreams.retrieve(made.id)).inputs, inputs);
await assert.rejects(dreams.archive(made.id), Anthropic.BadRequestError);
assert.equal((await dreams.cancel(made.id)).status, 'canceled');
assert.ok((await dreams.archive(made.id)).archived_at);
const ids = [];
for await (const d of dreams.list({ include_archived: true, statuses: ['canceled', 'failed'], limit: 1 })) ids.push(d.id);
assert.ok(ids.includes(made.id));
await assert.rejects(dreams.create({ model: 'm', inputs: inputs.slice(1) }), Anthropic.BadRequestError);
