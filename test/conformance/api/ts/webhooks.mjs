// Every method of the webhooks resources of the official TypeScript SDK, and a
// delivery as it reads one.
import assert from 'node:assert/strict';
import http from 'node:http';
import { once } from 'node:events';
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 });
const { webhooks } = client.beta.organization ?? client.beta.organizations;

let arrived;
const arrival = new Promise((resolve) => (arrived = resolve));
const listener = http.createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  response.writeHead(204).end();
  arrived({ body, headers: request.headers });
});
listener.listen(0, '127.0.0.1');
await once(listener, 'listening');

const made = await webhooks.create({ url: `http://127.0.0.1:${listener.address().port}/hooks`, enabled_events: ['agent.created'], description: 'typed' });
assert.match(made.signing_secret, /^whsec_/);
assert.equal((await webhooks.retrieve(made.id)).description, 'typed');
const { signing_secret: secret } = await webhooks.regenerateSigningSecret(made.id);
const agent = await client.beta.agents.create({ name: 'told', model: 'claude-opus-4-5' });
const { body, headers } = await arrival;
listener.close();

const event = client.beta.webhooks.unwrap(body, { headers, key: secret });
assert.equal(event.data.type, 'agent.created');
assert.equal(event.data.id, agent.id);
assert.throws(() => client.beta.webhooks.unwrap(body, { headers, key: made.signing_secret }));

assert.equal((await webhooks.update(made.id, { name: 'renamed' })).name, 'renamed');
const ids = [];
for await (const one of webhooks.list({ limit: 1 })) ids.push(one.id);
assert.deepEqual(ids, [made.id]);
assert.equal((await webhooks.delete(made.id)).type, 'webhook_endpoint_deleted');
