// Every method of the environments resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { environments } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const made = await environments.create({ name: 'typed', config: { type: 'self_hosted' }, metadata: { floor: '3' } });
await assert.rejects(environments.create({ name: 'typed' }), Anthropic.ConflictError);
const changed = await environments.update(made.id, { description: 'behind the wall', metadata: { floor: null, team: 'risk' } });
assert.deepEqual(changed.metadata, { team: 'risk' });
assert.equal((await environments.retrieve(made.id)).description, 'behind the wall');
assert.ok((await environments.archive(made.id)).archived_at);
const ids = [];
for await (const e of environments.list({ include_archived: true, limit: 1 })) ids.push(e.id);
assert.ok(ids.includes(made.id));
assert.equal((await environments.delete(made.id)).id, made.id);
await assert.rejects(environments.retrieve(made.id), Anthropic.NotFoundError);
