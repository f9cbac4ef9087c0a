// The same as line.py, for drivers in JavaScript.
import { createInterface } from "node:readline";

export const PAUSE = 30; // milliseconds that a worker is idle before the next job comes
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export async function go() {
  console.log("ready");
  await lines.next();
}

// Answers, and stays connected until the server's counters are read.
export async function answer(jobs = 0, more = {}) {
  console.log(JSON.stringify({ jobs, ...more }));
  await lines.next();
}

export async function serve(verbs) {
  const [verb, address, count] = process.argv.slice(2);
  await verbs[verb](address, Number(count));
  process.exit(0);
}

// One job after another, each when the one before has started: enqueue() takes one in,
// the returned started() is for its handler.
export function starts() {
  const ms = [];
  let began = 0;
  let wake = () => {};
  return {
    ms,
    started: () => {
      ms.push(performance.now() - began);
      wake();
    },
    one: async (enqueue) => {
      const done = new Promise((resolve) => (wake = resolve));
      began = performance.now();
      await enqueue();
      await done;
      await pause(PAUSE);
    },
  };
}
