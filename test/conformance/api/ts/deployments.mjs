// Every method of the deployments resources of the official TypeScript SDK.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const { beta } = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 });
const { deployments, deploymentRuns } = beta;

const agent = await beta.agents.create({ name: 'typed', model: 'claude-opus-4-5' });
const made = await deployments.create({
  name: 'typed',
  agent: { type: 'agent', id: agent.id, version: 1 },
  environment_id: process.env.HEARTH_ENVIRONMENT_ID,
  initial_events: [
    { type: 'user.message', content: [{ type: 'text', text: 'hello' }] },
    { type: 'system.message', content: [{ type: 'text', text: 'be brief' }] },
  ],
  schedule: { type: 'cron', expression: '*/15 9-17 * * 1-5', timezone: 'America/New_York' },
  metadata: { team: 'risk' },
});
assert.equal(made.schedule.upcoming_runs_at.length, 5);
assert.equal((await deployments.retrieve(made.id)).metadata.team, 'risk');
assert.equal((await deployments.update(made.id, { schedule: null })).schedule, null);
assert.equal((await deployments.pause(made.id)).status, 'paused');
const started = await deployments.run(made.id);
assert.equal(started.trigger_context.type, 'manual');
assert.equal((await deployments.unpause(made.id)).paused_reason, null);
const sessions = [];
for await (const s of beta.sessions.list({ deployment_id: made.id })) sessions.push(s.id);
assert.deepEqual(sessions, [started.session_id]);
const runs = [];
for await (const r of deploymentRuns.list({ deployment_id: made.id, trigger_type: 'manual' })) runs.push(r.id);
assert.deepEqual(runs, [started.id]);
assert.equal((await deploymentRuns.retrieve(started.id)).session_id, started.session_id);
assert.ok((await deployments.archive(made.id)).archived_at);
const listed = [];
for await (const d of deployments.list({ include_archived: true, agent_id: agent.id })) listed.push(d.id);
assert.deepEqual(listed, [made.id]);
