// Every method of the files resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic, { toFile } from '@anthropic-ai/sdk';

const { files } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const made = await files.upload({ file: await toFile(Buffer.from('content'), 'typed.txt', { type: 'text/plain' }) });
assert.equal((await files.retrieveMetadata(made.id)).size_bytes, 7);
assert.equal(await (await files.download(made.id)).text(), 'content');
const ids = [];
for await (const f of files.list({ limit: 1 })) ids.push(f.id);
assert.equal(ids[0], made.id);
assert.equal((await files.delete(made.id)).id, made.id);
await assert.rejects(files.retrieveMetadata(made.id), Anthropic.NotFoundError);
