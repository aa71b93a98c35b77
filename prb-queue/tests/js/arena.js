// The Arena dashboard over a bee-queue, as the original's queue page is one.
// Arena 3: the page of a queue breaks over bee-queue in Arena 4.
// Usage: node arena.js PORT NAME. Prints the port that it listens on; ends when it is killed.
'use strict';
const Arena = require('bull-arena');
const Bee = require('bee-queue');

const [port, name] = process.argv.slice(2);
const arena = Arena(
  { Bee, queues: [{ name, hostId: 'prb', type: 'bee', redis: { host: '127.0.0.1', port: Number(port) } }] },
  { disableListen: true, useCdn: false },
);
const server = arena.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ listening: server.address().port }));
});
