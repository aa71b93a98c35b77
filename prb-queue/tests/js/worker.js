// A worker of the real bee-queue, as the original's trader is one, with the stalled check that it lacks.
// Usage: node worker.js PORT NAME STALL_MS. What it does with a job is told by the job's pid:
// 1 reports progress and succeeds, 2 fails, 3 fails once, 4 never ends. Prints a line a job taken.
'use strict';
const Queue = require('bee-queue');

const [port, name, stallMs] = process.argv.slice(2);
const queue = new Queue(name, {
  redis: { host: '127.0.0.1', port: Number(port) },
  stallInterval: Number(stallMs),
  activateDelayedJobs: true,
  delayedDebounce: 10,
});
queue.on('error', (error) => console.error(error));

async function work(job) {
  console.log(JSON.stringify({ took: job.id, data: job.data }));
  switch (job.data.payload.pid) {
    case '1':
      for (const progress of ['RP_INIT', 'RP_PREPROCESSED', 'RP_WORKING', 'RP_FINISHED']) {
        await job.reportProgress(progress);
      }
      return { done: true };
    case '2':
      throw new Error('boom');
    case '3':
      if (job.options.stacktraces.length === 0) throw new Error('not yet');
      return null;
    default:
      return new Promise(() => {});
  }
}

queue.ready().then(() => {
  queue.process(4, work);
  queue.checkStalledJobs(Number(stallMs));
  console.log(JSON.stringify({ ready: true }));
});
