// Every method of the models and messages resources of the official TypeScript
// SDK that Hearth has: what it passes on to the provider.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.HEARTH_URL, apiKey: process.env.HEARTH_KEY, maxRetries: 0 });
const ask = (content) => ({ model: 'fake-1', max_tokens: 100, messages: [{ role: 'user', content }] });

for (const { models, messages } of [client, client.beta]) {
  const ids = [];
  for await (const m of models.list({ limit: 1 })) ids.push(m.id);
  assert.deepEqual(ids, ['fake-3', 'fake-2', 'fake-1']);
  assert.equal((await models.retrieve('fake-2')).id, 'fake-2');
  await assert.rejects(models.retrieve('no-such-model'), Anthropic.NotFoundError);

  assert.equal((await messages.create(ask('say hello'))).content[0].text, 'hello there');
  assert.ok((await messages.countTokens({ model: 'fake-1', messages: ask('say hello').messages })).input_tokens > 0);

  let text = '';
  for await (const event of await messages.create({ ...ask('say hello'), stream: true })) {
    if (event.type === 'content_block_delta') text += event.delta.text;
  }
  assert.equal(text, 'hello there');
  const tools = [{ name: 'weather', input_schema: { type: 'object', properties: { city: { type: 'string' } } } }];
  const called = await messages.stream({ ...ask('use a tool'), tools }).finalMessage();
  assert.equal(called.stop_reason, 'tool_use');
  assert.deepEqual(called.content[0].input, { city: 'Oslo' });

  await assert.rejects(messages.create(ask('fail 400')), Anthropic.BadRequestError);
  await assert.rejects(messages.create(ask('fail 429')), (err) => err instanceof Anthropic.RateLimitError && err.headers.get('retry-after') === '7');
  await assert.rejects(messages.create(ask('fail 529')), (err) => err.status === 529 && err.type === 'overloaded_error');
  await assert.rejects(messages.stream(ask('fail inside')).finalMessage(), Anthropic.APIError);
  await assert.rejects(messages.stream(ask('cut')).finalMessage());

  const left = messages.stream(ask('stall'));
  left.on('text', () => left.abort());
  await assert.rejects(left.finalMessage(), Anthropic.APIUserAbortError);
}
