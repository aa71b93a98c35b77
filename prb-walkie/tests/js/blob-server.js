'use strict'

const { parseArgs } = require('util')
const blobs = require('./lib/blobs')
const wire = require('./lib/blob-wire')
const { emit, fail } = require('./lib/output')

const USAGE = `node blob-server.js [--host 127.0.0.1] [--port 0] [--blobs FILE] [--quiet]
  Serves blobs over TCP: those of FILE ({key: hex}), and pattern:SIZE, corrupt:KEY, late:MS:KEY, silent.`

function main () {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '0' },
      blobs: { type: 'string' },
      quiet: { type: 'boolean', default: false },
      help: { type: 'boolean' }
    }
  })
  if (values.help) return console.log(USAGE)
  const server = wire.serve(blobs.store(values.blobs), key => values.quiet || emit('asked', { key }))
  server.on('error', fail)
  server.listen(Number(values.port), values.host, () => emit('listening', { port: server.address().port }))
  process.stdin.on('end', () => process.exit(0)).resume()
}

main()
