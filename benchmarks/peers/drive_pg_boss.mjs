// pg-boss: fetch and complete in batches of 500; NOTIFY on for the idle latency.
import { createRequire } from "node:module";
import { answer, go, serve, starts } from "./line.mjs";

const require = createRequire(new URL("../../.servers/queue/", import.meta.url));
const { PgBoss } = await import(require.resolve("pg-boss"));
const QUEUE = "nothing";

async function started(connectionString, more = {}) {
  const boss = new PgBoss({ connectionString, supervise: false, schedule: false, ...more });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

async function prepare(connectionString) {
  const boss = await started(connectionString);
  await boss.createQueue(QUEUE, { notify: true });
  await answer();
}

async function enqueue(connectionString, count) {
  const boss = await started(connectionString);
  await go();
  await boss.insert(QUEUE, Array.from({ length: count }, (_, n) => ({ data: { image: n } })));
  await answer(count);
}

async function drain(connectionString) {
  const boss = await started(connectionString);
  let done = 0;
  await go();
  for (;;) {
    const jobs = await boss.fetch(QUEUE, { batchSize: 500 });
    if (!jobs.length) break;
    await boss.complete(QUEUE, jobs.map((job) => job.id));
    done += jobs.length;
  }
  await answer(done);
}

async function latency(connectionString, count) {
  const boss = await started(connectionString, { useListenNotify: true });
  const each = starts();
  await boss.work(QUEUE, { pollingIntervalSeconds: 0.5 }, async () => each.started());
  await go();
  for (let n = 0; n < count; n++) await each.one(() => boss.send(QUEUE, { n }));
  await answer(count, { ms: each.ms });
}

await serve({ prepare, enqueue, drain, latency });
