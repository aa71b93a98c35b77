'use strict'

const readline = require('readline')
const { parseArgs } = require('util')
const wire = require('./lib/blob-wire')
const keys = require('./lib/keys')
const peer = require('./lib/node')
const rpc = require('./lib/rpc')
const { Copy } = require('./lib/copy')
const { emit, fail } = require('./lib/output')

const USAGE = `node data-provider.js --copy PORT --para-id N --chain-identity X --bridge-identity Y --listen ADDR
    [--boot ADDR]... [--mdns]
  An original data provider: it says Hello and GetDataProviderInfo, and serves over TCP, under the original's keys
  alone, what it copies from the blob server at that port of 127.0.0.1. Prints "height" as it grows, "strange-key"
  for each key that no original knows, and "asked" for the first key of each other kind.`

const PAUSE_MS = 300

async function copyOn (copy) {
  let told = -1
  for (;;) {
    await copy.round()
    if (copy.blocks > told) {
      told = copy.blocks
      emit('height', { relay: copy.relay, para: told })
    }
    await new Promise(resolve => setTimeout(resolve, PAUSE_MS))
  }
}

function blobServer (copy) {
  const seen = new Set()
  const server = wire.serve(key => copy.blobs.get(key), key => {
    const kind = key.split(':')[0]
    if (!keys.isOriginal(key)) emit('strange-key', { key })
    else if (!seen.has(kind)) emit('asked', { kind: (seen.add(kind), kind), key })
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => resolve(server.address().port))
  })
}

async function main () {
  const text = { type: 'string' }
  const many = { type: 'string', multiple: true, default: [] }
  const { values } = parseArgs({
    options: {
      copy: text,
      'para-id': text,
      'chain-identity': text,
      'bridge-identity': text,
      listen: many,
      boot: many,
      mdns: { type: 'boolean', default: false }
    }
  })
  if (!values.copy || !values['para-id']) return fail(USAGE)
  const client = await wire.BlobClient.connect({ host: '127.0.0.1', port: Number(values.copy) })
  const copy = new Copy(client, Number(values['para-id']))
  const port = await blobServer(copy)
  const peerId = await peer.identity()
  const { listen, boot, mdns } = values
  const node = await peer.create({ peerId, listen, boot, mdns, mdnsInterval: 2000 })
  const info = peer.systemInfo(peerId, {
    role: 'WR_DATA_PROVIDER_INT',
    chainIdentity: values['chain-identity'],
    bridgeIdentity: values['bridge-identity']
  })
  const handlers = { Hello: () => info, GetDataProviderInfo: () => copy.info(port) }
  rpc.serve(node, handlers, key => copy.blobs.get(key))
  new peer.Acquaintances(node, info, emit)
  await node.start()
  emit('listening', { peerId: peerId.toB58String(), addresses: node.multiaddrs.map(String), port })
  readline.createInterface({ input: process.stdin }).on('close', () => process.exit(0))
  await copyOn(copy)
}

main().catch(fail)
