// Every method of the vaults resource of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { vaults } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 }).beta;

const made = await vaults.create({ display_name: 'typed', metadata: { team: 'risk', old: 'x' } });
const changed = await vaults.update(made.id, { metadata: { old: null } });
assert.deepEqual(changed.metadata, { team: 'risk' });
assert.equal((await vaults.retrieve(made.id)).display_name, 'typed');

const auth = { type: 'static_bearer', mcp_server_url: 'https://mcp.example.com/mcp', token: 'secret' };
const bearer = await vaults.credentials.create(made.id, { auth, display_name: 'bearer' });
assert.deepEqual(bearer.auth, { type: 'static_bearer', mcp_server_url: auth.mcp_server_url });
await assert.rejects(vaults.credentials.create(made.id, { auth }), Anthropic.ConflictError);
const renamed = await vaults.credentials.update(bearer.id, { vault_id: made.id, display_name: 'renamed', auth: { type: 'static_bearer', token: 'another' } });
assert.equal(renamed.display_name, 'renamed');
assert.deepEqual(await vaults.credentials.retrieve(bearer.id, { vault_id: made.id }), renamed);

const oauth = await vaults.credentials.create(made.id, {
  auth: {
    type: 'mcp_oauth',
    mcp_server_url: process.env.MCP_URL,
    access_token: 'too-old',
    refresh: { client_id: 'hearth-client', refresh_token: 'refresh-zero', token_endpoint: process.env.TOKEN_URL, token_endpoint_auth: { type: 'none' } },
  },
});
const validated = await vaults.credentials.mcpOAuthValidate(oauth.id, { vault_id: made.id });
assert.equal(validated.status, 'valid');
assert.equal(validated.refresh.status, 'succeeded');

const ids = [];
for await (const c of vaults.credentials.list(made.id, { limit: 1 })) ids.push(c.id);
assert.deepEqual(ids, [oauth.id, bearer.id]);
assert.ok((await vaults.credentials.archive(oauth.id, { vault_id: made.id })).archived_at);
assert.equal((await vaults.credentials.delete(bearer.id, { vault_id: made.id })).type, 'vault_credential_deleted');

assert.ok((await vaults.archive(made.id)).archived_at);
const found = [];
for await (const v of vaults.list({ include_archived: true, limit: 1 })) found.push(v.id);
assert.ok(found.includes(made.id));
assert.equal((await vaults.delete(made.id)).type, 'vault_deleted');
await assert.rejects(vaults.retrieve(made.id), Anthropic.NotFoundError);
