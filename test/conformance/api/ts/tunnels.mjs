// Every method of the tunnels resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { tunnels } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const made = await tunnels.create({ display_name: 'typed' });
assert.equal((await tunnels.retrieve(made.id)).display_name, 'typed');
const first = await tunnels.revealToken(made.id);
assert.deepEqual(await tunnels.revealToken(made.id), first);
assert.notEqual((await tunnels.rotateToken(made.id, { reason: 'yearly' })).tunnel_token, first.tunnel_token);

const { certificates } = tunnels;
await assert.rejects(certificates.create(made.id, { ca_certificate_pem: 'x' }), Anthropic.BadRequestError);
const cert = await certificates.create(made.id, { ca_certificate_pem: process.env.HEARTH_CA });
assert.equal((await certificates.retrieve(cert.id, { tunnel_id: made.id })).fingerprint, cert.fingerprint);
const listed = [];
for await (const c of certificates.list(made.id)) listed.push(c.id);
assert.deepEqual(listed, [cert.id]);
assert.ok((await certificates.archive(cert.id, { tunnel_id: made.id })).archived_at);

assert.ok((await tunnels.archive(made.id)).archived_at);
await assert.rejects(tunnels.revealToken(made.id), Anthropic.BadRequestError);
const ids = [];
for await (const t of tunnels.list({ include_archived: true, limit: 1 })) ids.push(t.id);
assert.ok(ids.includes(made.id));
