'use strict'

const { createHash } = require('crypto')
const { parseArgs } = require('util')
const { BlobClient } = require('./lib/blob-wire')
const { emit, fail, measure } = require('./lib/output')

const USAGE = `node blob-client.js --port PORT [--host 127.0.0.1] KEY...
  Asks for all keys at once on one connection; prints each one's size and SHA-256, in the order of answers.
node blob-client.js --port PORT --bench [--clients 1] [--in-flight 1] [--seconds 5] KEY
  Asks for one key over and over.`

async function ask (client, key) {
  try {
    const blob = await client.get(key)
    if (!blob) return emit('missing', { key })
    emit('blob', { key, size: blob.length, sha256: createHash('sha256').update(blob).digest('hex') })
  } catch (error) {
    emit('failed', { key, message: error.message })
  }
}

async function bench (address, key, values) {
  const clients = await Promise.all(Array.from({ length: Number(values.clients) }, () => BlobClient.connect(address)))
  const parallel = clients.length * Number(values['in-flight'])
  const figures = await measure({ parallel, seconds: Number(values.seconds) }, async lane => {
    const client = clients[lane % clients.length]
    return () => client.get(key)
  })
  emit('bench', { key, clients: clients.length, inFlight: Number(values['in-flight']), ...figures })
  clients.forEach(client => client.close())
}

async function main () {
  const { values, positionals: keys } = parseArgs({
    allowPositionals: true,
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string' },
      bench: { type: 'boolean' },
      clients: { type: 'string', default: '1' },
      'in-flight': { type: 'string', default: '1' },
      seconds: { type: 'string', default: '5' }
    }
  })
  if (!values.port || !keys.length) return fail(USAGE)
  const address = { host: values.host, port: Number(values.port) }
  if (values.bench) return bench(address, keys[0], values)
  const client = await BlobClient.connect(address)
  await Promise.all(keys.map(key => ask(client, key)))
  client.close()
}

main().catch(fail)
