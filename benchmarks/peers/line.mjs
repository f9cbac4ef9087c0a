// The same as line.py, for drivers in JavaScript.
import { createInterface } from "node:readline/promises";

export const PAUSE = 30; // milliseconds that a worker is idle before the next job comes
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function go() {
  console.log("ready");
  const lines = createInterface({ input: process.stdin });
  await new Promise((resolve) => lines.once("line", resolve));
  lines.close();
}

export const answer = (jobs = 0, more = {}) => console.log(JSON.stringify({ jobs, ...more }));

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
