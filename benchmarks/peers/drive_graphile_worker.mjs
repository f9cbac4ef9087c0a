// graphile-worker with its local queue and its batched completion, as its own benchmark has them.
import { createRequire } from "node:module";
import { answer, go, serve, starts } from "./line.mjs";

const require = createRequire(new URL("../../.servers/queue/", import.meta.url));
const { Logger, makeWorkerUtils, run, runOnce } = require("graphile-worker");
const quiet = new Logger(() => () => {});
const preset = (connectionString, size = 500) => ({
  worker: {
    connectionString,
    maxPoolSize: 10,
    concurrentJobs: 24,
    pollInterval: 2000,
    localQueue: { size, refetchDelay: { durationMs: 10 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    logger: quiet,
  },
});

async function prepare(connectionString) {
  const utils = await makeWorkerUtils({ connectionString, logger: quiet });
  await utils.migrate();
  await utils.addJob("nothing", {}); // the task's row
  await utils.withPgClient((client) => client.query("delete from graphile_worker._private_jobs"));
  await utils.release();
  await answer();
}

async function enqueue(connectionString, count) {
  const utils = await makeWorkerUtils({ connectionString, logger: quiet });
  await go();
  const jobs = Array.from({ length: count }, (_, n) => ({ identifier: "nothing", payload: { image: n } }));
  await utils.addJobs(jobs);
  await answer(count);
  await utils.release();
}

async function drain(connectionString) {
  let done = 0;
  await go();
  await runOnce({ preset: preset(connectionString), taskList: { nothing: () => void done++ } });
  await answer(done);
}

async function latency(connectionString, count) {
  const each = starts();
  const utils = await makeWorkerUtils({ connectionString, logger: quiet });
  const runner = await run({
    preset: preset(connectionString),
    noHandleSignals: true,
    taskList: { nothing: each.started },
  });
  await go();
  for (let n = 0; n < count; n++) await each.one(() => utils.addJob("nothing", { n }));
  await answer(count, { ms: each.ms });
  await runner.stop();
}

await serve({ prepare, enqueue, drain, latency });
