// The TypeScript library behind lines of JSON: a request a line on stdin, its answer a line on stdout.
// Environment: INTEROP_MODULES, where npm installed it; PG_DATAQUEUE_DATABASE.
import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(`${process.env.INTEROP_MODULES}/package.json`);
const { initJobQueue } = require('@nicnocquee/dataqueue');

// It logs each failed job to the console; stdout is ours.
console.error = () => {};
console.log = () => {};

const connectionString = process.env.PG_DATAQUEUE_DATABASE;
// A pool that its nested connections do not exhaust.
const queue = initJobQueue({ databaseConfig: { connectionString, max: 40 } });
let seen = [];
let background;

function processor(types, options) {
  const handler = async (payload) => {
    seen.push(payload);
    if (payload.fail) throw new Error(payload.fail);
    if (payload.ms) await new Promise((resolve) => setTimeout(resolve, payload.ms));
  };
  const handlers = Object.fromEntries(types.map((type) => [type, handler]));
  return queue.createProcessor(handlers, { jobType: types, ...options });
}

const operations = {
  // Any method of its queue, by name.
  call: ({ method, args }) => queue[method](...args),
  // One batch; the payloads that its handlers saw.
  work: async ({ types, options }) => {
    seen = [];
    await processor(types, options).start();
    return seen;
  },
  start: async ({ types, options }) => {
    seen = [];
    background = processor(types, options);
    background.startInBackground();
  },
  seen: async () => seen,
  stop: async () => {
    background.stop();
    return seen;
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { operation, ...request } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await operations[operation](request)) ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await queue.getPool().end();
