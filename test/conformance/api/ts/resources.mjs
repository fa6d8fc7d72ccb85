// Every method of the resources resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic, { toFile } from '@anthropic-ai/sdk';

const { files, sessions } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const file = await files.upload({ file: await toFile(Buffer.from('a,b\n'), 'data.csv', { type: 'text/csv' }) });
const session = await sessions.create({
  agent: process.env.HEARTH_AGENT, environment_id: process.env.HEARTH_ENVIRONMENT,
  resources: [{ type: 'github_repository', url: 'https://git.example.com/team/tool', authorization_token: 'a-token-of-the-test' }],
});
const session_id = session.id;
const [repository] = session.resources;
const added = await sessions.resources.add(session_id, { type: 'file', file_id: file.id });
assert.equal((await sessions.resources.retrieve(added.id, { session_id })).file_id, file.id);
const ids = [];
for await (const r of sessions.resources.list(session_id, { limit: 1 })) ids.push(r.id);
assert.deepEqual(ids.sort(), [repository.id, added.id].sort());
assert.equal((await sessions.resources.update(repository.id, { session_id, authorization_token: 'another' })).id, repository.id);
assert.equal((await sessions.resources.delete(added.id, { session_id })).id, added.id);
await assert.rejects(sessions.resources.retrieve(added.id, { session_id }), Anthropic.NotFoundError);
