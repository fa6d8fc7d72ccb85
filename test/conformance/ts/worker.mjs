// The official EnvironmentWorker, unmodified, until it is told to end.
import Anthropic from '@anthropic-ai/sdk';

const { HEARTH_URL, HEARTH_ENVIRONMENT_ID, HEARTH_WORKER_KEY, HEARTH_WORKDIR, HEARTH_MAX_IDLE_MS } = process.env;
const stop = new AbortController();
process.on('SIGTERM', () => stop.abort());

const client = new Anthropic({ baseURL: HEARTH_URL, apiKey: 'a-key-no-worker-may-send' });
try {
  await client.beta.environments.work
    .worker({
      environmentId: HEARTH_ENVIRONMENT_ID,
      environmentKey: HEARTH_WORKER_KEY,
      workdir: HEARTH_WORKDIR,
      maxIdleMs: Number(HEARTH_MAX_IDLE_MS),
    })
    .run(stop.signal);
} catch (error) {
  if (!stop.signal.aborted) {
    console.error(String(error));
    process.exit(1);
  }
}
