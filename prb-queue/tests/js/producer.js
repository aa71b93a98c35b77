// A producer of the real bee-queue, as the original's lifecycle manager is one.
// Usage: node producer.js PORT NAME JOB, where JOB is {"data","retries"?,"delayMs"?}. Prints a line for the
// job's id and for each of its events, and ends with the job.
'use strict';
const Queue = require('bee-queue');

const [port, name, text] = process.argv.slice(2);
const { data, retries, delayMs } = JSON.parse(text);
const queue = new Queue(name, { redis: { host: '127.0.0.1', port: Number(port) }, isWorker: false });
const say = (line) => console.log(JSON.stringify(line));

queue.ready().then(async () => {
  let mine = null;
  const early = [];
  const see = (event) => (id, data) => {
    if (mine === null) early.push([event, id, data]);
    else if (id === mine) tell(event, data);
  };
  const tell = (event, data) => {
    say({ event, data: data instanceof Error ? data.message : data });
    if (event === 'succeeded' || event === 'failed') queue.checkHealth().then((health) => {
      say({ health });
      process.exit(0);
    });
  };
  for (const event of ['progress', 'retrying', 'succeeded', 'failed']) queue.on(`job ${event}`, see(event));
  const job = queue.createJob(data);
  if (retries) job.retries(retries);
  if (delayMs) job.delayUntil(Date.now() + delayMs);
  await job.save();
  say({ id: job.id });
  mine = job.id;
  early.filter(([, id]) => id === mine).forEach(([event, , data]) => tell(event, data));
});
