// Every method of the memory stores resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import Anthropic from '@anthropic-ai/sdk';

const { memoryStores } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;
const { memories, memoryVersions } = memoryStores;
const sha256 = (text) => createHash('sha256').update(text).digest('hex');

const store = await memoryStores.create({ name: 'Typed', metadata: { team: 'risk', old: 'x' } });
assert.equal((await memoryStores.retrieve(store.id)).metadata.team, 'risk');
const changed = await memoryStores.update(store.id, { description: 'what we know', metadata: { old: null } });
assert.deepEqual([changed.name, changed.description, changed.metadata], ['Typed', 'what we know', { team: 'risk' }]);

const text = 'é\r\n';
const memory = await memories.create(store.id, { path: '/notes/a.md', content: text });
assert.deepEqual([memory.content, memory.content_sha256, memory.content_size_bytes], [null, sha256(text), 4]);
const at = { memory_store_id: store.id };
assert.equal((await memories.retrieve(memory.id, at)).content, text);
const precondition = { type: 'content_sha256', content_sha256: memory.content_sha256 };
const two = await memories.update(memory.id, { ...at, content: 'two', path: '/notes/b.md', precondition, view: 'full' });
assert.deepEqual([two.content, two.path, two.id], ['two', '/notes/b.md', memory.id]);
await assert.rejects(memories.update(memory.id, { ...at, content: 'three', precondition }), (error) => {
  assert.ok(error instanceof Anthropic.ConflictError);
  assert.equal(error.error.error.type, 'memory_precondition_failed_error');
  return true;
});
await assert.rejects(memories.create(store.id, { path: '/notes/b.md/below', content: '' }), (error) => {
  const { type, conflicting_memory_id, conflicting_path } = error.error.error;
  assert.deepEqual([type, conflicting_memory_id, conflicting_path], ['memory_path_conflict_error', memory.id, '/notes/b.md']);
  return true;
});
const listed = [];
for await (const item of memories.list(store.id, { depth: 1 })) listed.push([item.type, item.path]);
assert.deepEqual(listed, [['memory_prefix', '/notes/']]);
const below = [];
for await (const item of memories.list(store.id, { path_prefix: '/notes/', view: 'full', limit: 1 })) below.push([item.type, item.content]);
assert.deepEqual(below, [['memory', 'two']]);
assert.equal((await memories.delete(memory.id, { ...at, expected_content_sha256: sha256('two') })).type, 'memory_deleted');
await assert.rejects(memories.retrieve(memory.id, at), Anthropic.NotFoundError);

const history = [];
for await (const v of memoryVersions.list(store.id, { memory_id: memory.id, limit: 1 })) history.push(v);
assert.deepEqual(history.map((v) => v.operation), ['deleted', 'modified', 'created']);
const first = await memoryVersions.retrieve(memory.memory_version_id, at);
assert.deepEqual([first.content, first.path, first.created_by.type], [text, '/notes/a.md', 'api_actor']);
const redacted = await memoryVersions.redact(memory.memory_version_id, at);
assert.deepEqual([redacted.content, redacted.path, redacted.content_sha256, redacted.redacted_by.type], [null, null, null, 'api_actor']);

assert.ok((await memoryStores.archive(store.id)).archived_at);
const ids = [];
for await (const s of memoryStores.list({ include_archived: true, limit: 1 })) ids.push(s.id);
assert.ok(ids.includes(store.id));
assert.equal((await memoryStores.delete(store.id)).type, 'memory_store_deleted');
