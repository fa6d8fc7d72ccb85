// Every method of the skills resources of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic, { toFile } from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 });

async function files(name, description) {
  return [
    await toFile(Buffer.from(`---\nname: ${name}\ndescription: ${description}\n---\n`), `${name}/SKILL.md`),
    await toFile(Buffer.from('data'), `${name}/data.txt`),
  ];
}

for (const [kind, skills] of [['beta', client.beta.skills], ['plain', client.skills]]) {
  const name = `typed-${kind}`;
  const made = await skills.create({ files: await files(name, 'Is typed.'), display_name: 'Typed' });
  assert.equal(made.display_name, 'Typed');
  assert.deepEqual(await skills.retrieve(made.id), made);
  await assert.rejects(skills.create({ files: await files(name, 'Again.') }), (err) => err instanceof Anthropic.ConflictError && err.errorCode === 'skill_name_taken');
  await assert.rejects(skills.create({ files: [await toFile(Buffer.from('x'), 'x/README.md')] }), Anthropic.BadRequestError);

  const second = await skills.versions.create(made.id, { files: await files(name, 'Is typed twice.') });
  assert.equal(second.description, 'Is typed twice.');
  assert.deepEqual(await skills.versions.retrieve('latest', { skill_id: made.id }), second);
  const versions = [];
  for await (const v of skills.versions.list(made.id, { limit: 1 })) versions.push(v.id);
  assert.deepEqual(versions, [second.id, made.latest_version_id]);
  const archive = Buffer.from(await (await client.beta.skills.versions.download(second.id, { skill_id: made.id })).arrayBuffer());
  assert.equal(archive.subarray(0, 4).toString('latin1'), 'PK\x03\x04');
  assert.ok(archive.includes(`${name}/data.txt`));
  assert.equal((await skills.versions.delete(made.latest_version_id, { skill_id: made.id })).type, 'skill_version_deleted');
  await assert.rejects(skills.versions.delete(second.id, { skill_id: made.id }), Anthropic.ConflictError);

  const ids = [];
  for await (const s of skills.list({ limit: 1, source: 'custom' })) ids.push(s.id);
  assert.ok(ids.includes(made.id));
  assert.equal((await skills.delete(made.id)).type, 'skill_deleted');
  await assert.rejects(skills.retrieve(made.id), Anthropic.NotFoundError);
}
