// Every method of the user profiles resource of the official TypeScript SDK, in
// both of its twins.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 });

const beta = client.beta.userProfiles;
const old = await beta.create({ name: 'Ada', external_id: 'u1' });
assert.equal((await beta.retrieve(old.id)).external_id, 'u1');
assert.equal((await beta.update(old.id, { metadata: { tier: 'gold' } })).metadata.tier, 'gold');
await assert.rejects(beta.update(old.id, { external_user_details: { country: 'DE' } }), Anthropic.BadRequestError);
const ids = [];
for await (const p of beta.list({ order_by: 'name', order: 'asc', limit: 1 })) ids.push(p.id);
assert.ok(ids.includes(old.id));
assert.equal((await beta.createEnrollmentURL(old.id)).type, 'enrollment_url');
assert.equal((await beta.actionURLs.create(old.id, { action: { type: 'enroll_end_user' } })).type, 'user_profile_action_url');

const newest = client.userProfiles;
const made = await newest.create({ name: 'Grace', external_user_details: { country: 'US' } });
assert.equal((await newest.retrieve(made.id)).external_user_details.country, 'US');
assert.equal((await newest.retrieve(old.id)).external_user_details.reference_id, 'u1');
assert.deepEqual((await newest.update(made.id, { name: 'Grace H.' })).programs, { cyber: null, efs: null });
const names = [];
for await (const p of newest.list({})) names.push(p.name);
assert.deepEqual(names.slice(0, 2), ['Grace H.', 'Ada']);
assert.equal((await newest.actionURLs.create(old.id, { action: { type: 'enroll_end_user' } })).type, 'user_profile_action_url');

assert.equal((await beta.delete(old.id)).type, 'user_profile_deleted');
assert.equal((await newest.delete(made.id)).id, made.id);
await assert.rejects(beta.retrieve(old.id), Anthropic.NotFoundError);
