// A worker of the queue in JavaScript, by the SQL functions alone: enqueue, listen, claim, complete.
//
//     npm install pg
//     DATABASE_URL=postgresql://… node worker.mjs IMAGE...
//
// It asks for an analysis of each image, works until all of them have ended, and says how.

import { hostname } from "node:os";
import pg from "pg";

const NAME = "brightness"; // the analyser that lives in this file
const VERSION = "1.0.0";
const HEARTBEAT = 2000; // milliseconds; the lease of the other workers is 7.5 s
const POLL = 1000; // milliseconds: a notification can be missed

const images = process.argv.slice(2);
const worker = `${hostname()}-node-${process.pid}-${Date.now()}`;
const analysers = [`${NAME}@${VERSION}`];

const database = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
const ask = async (query, values) => (await database.query(query, values)).rows;

// A connection of its own hears of new jobs: LISTEN needs the same one all the time.
const ears = new pg.Client({ connectionString: process.env.DATABASE_URL });
let wake = () => {};
ears.on("notification", () => wake());
await ears.connect();
await ears.query("listen negspace_jobs");

await ask("select register_worker($1, $2, $3, $4)", [worker, hostname(), process.pid, analysers]);
const beat = setInterval(() => ask("select heartbeat($1)", [worker]).catch(console.error), HEARTBEAT);

const claim = () => ask("select * from claim_jobs($1, 10, $2)", [worker, analysers]);

async function nextJobs() {
  let jobs = await claim();
  if (jobs.length > 0) return jobs;
  const woken = new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, POLL);
  });
  await ask("select rest_worker($1, true)", [worker]); // whoever enqueues now tells us
  jobs = await claim(); // one may have come before that was known
  if (jobs.length === 0) {
    await woken;
    jobs = await claim();
  }
  await ask("select rest_worker($1, false)", [worker]);
  return jobs;
}

// An end is the job with its attempt and token, and what belongs to the kind of end.
const held = (job) => ({ job: job.id, attempt: job.attempt, token: job.lease_token });

function analyse(job) {
  const began = performance.now();
  const shade = Number(job.image_id) % 256; // where a real analyser opens the file
  return {
    ...held(job),
    negative_space_data: { schema: "brightness/1", shade },
    confidence_score: 0.5,
    processing_time_ms: Math.round(performance.now() - began),
  };
}

async function end(jobs) {
  const done = [];
  const broken = [];
  for (const job of jobs) {
    try {
      done.push(analyse(job));
    } catch (error) {
      broken.push({ ...held(job), reason: String(error), again: false });
    }
  }
  return [
    ...(await ask("select * from complete_jobs($1)", [JSON.stringify(done)])),
    ...(await ask("select * from fail_jobs($1)", [JSON.stringify(broken)])),
  ];
}

const asked = nextJobs(); // it sleeps already when the jobs come
const answers = await ask(
  "select image_id, outcome, job_id from enqueue_jobs($1, algorithm_name => $2, algorithm_version => $3)",
  [images, NAME, VERSION],
);
const open = new Set(answers.filter((one) => one.job_id !== null).map((one) => one.job_id));
for (const one of answers) console.log(`image ${one.image_id}: ${one.outcome}`);

let jobs = await asked;
while (open.size > 0) {
  for (const one of await end(jobs)) {
    open.delete(one.job_id);
    console.log(`job ${one.job_id}: ${one.outcome}`);
  }
  if (open.size > 0) jobs = await nextJobs();
}

clearInterval(beat);
await ask("select stop_worker($1, 'nothing left to do')", [worker]);
await ears.end();
await database.end();
