// The Node worker: npm install faktory-worker
// node work.js QUEUE CONCURRENCY
const faktory = require("faktory-worker");

const [queue, concurrency] = process.argv.slice(2);
faktory.register("Empty", async () => {});
faktory.work({ queues: [queue], concurrency: Number(concurrency) });
