// bee-queue's own figure: jobs per second from enqueue to completed.
// Usage: node bench.js PORT NAME CONCURRENCY IN_FLIGHT JOBS [worker|producer]; without a role, both in one
// process. Prints {"jobs","secs","p50Ms","cpuUs"}.
'use strict';
const Queue = require('bee-queue');

const [port, name, concurrency, inFlight, jobs] = process.argv.slice(2, 7).map((arg, i) => (i === 1 ? arg : Number(arg)));
const role = process.argv[7];
const redis = { host: '127.0.0.1', port };
const data = { action: 'ADD_WORKER', payload: { pid: '7', publicKey: '0x' + '01'.repeat(32) } };

async function main() {
  if (role !== 'producer') {
    const worker = new Queue(name, { redis, getEvents: false });
    await worker.ready();
    worker.process(concurrency, async () => 0);
    if (role === 'worker') {
      console.log('ready');
      return;
    }
  }
  const producer = new Queue(name, { redis, isWorker: false });
  await producer.ready();
  // Not the job's own event: bee-queue misses it where the job ends before `save` knows its id.
  const waiting = new Map();
  const early = new Set();
  producer.on('job succeeded', (id) => {
    const resolve = waiting.get(id);
    if (resolve) {
      waiting.delete(id);
      resolve();
    } else {
      early.add(id);
    }
  });
  const latencies = [];
  const one = async () => {
    const start = process.hrtime.bigint();
    const job = await producer.createJob(data).save();
    if (!early.delete(job.id)) await new Promise((resolve) => waiting.set(job.id, resolve));
    latencies.push(Number(process.hrtime.bigint() - start) / 1e6);
  };
  const run = async (count) => {
    let left = count;
    const lane = async () => {
      while (left > 0) {
        left -= 1;
        await one();
      }
    };
    await Promise.all(Array.from({ length: inFlight }, lane));
  };
  await run(Math.ceil(jobs / 10)); // warm
  latencies.length = 0;
  const cpu = process.cpuUsage();
  const start = process.hrtime.bigint();
  await run(jobs);
  const secs = Number(process.hrtime.bigint() - start) / 1e9;
  latencies.sort((a, b) => a - b);
  const { user, system } = process.cpuUsage(cpu);
  const p50Ms = latencies[latencies.length >> 1];
  console.log(JSON.stringify({ jobs, secs, p50Ms, cpuUs: (user + system) / jobs }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
