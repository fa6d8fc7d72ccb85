// Every method of the agents resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { agents } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const made = await agents.create({ name: 'typed', model: 'claude-opus-4-5', metadata: { team: 'risk' } });
assert.equal((await agents.retrieve(made.id)).metadata.team, 'risk');
const changed = await agents.update(made.id, { version: made.version, system: 'Be brief.' });
assert.equal(changed.version, 2);
await assert.rejects(agents.update(made.id, { version: 1, system: 'Be long.' }), Anthropic.ConflictError);
const versions = [];
for await (const v of agents.versions.list(made.id)) versions.push(v.version);
assert.deepEqual(versions, [2, 1]);
assert.ok((await agents.archive(made.id)).archived_at);
const ids = [];
for await (const a of agents.list({ include_archived: true, limit: 1 })) ids.push(a.id);
assert.ok(ids.includes(made.id));
