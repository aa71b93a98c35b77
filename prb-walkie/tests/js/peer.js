'use strict'

const fs = require('fs')
const readline = require('readline')
const { createHash, randomBytes } = require('crypto')
const { parseArgs } = require('util')
const blobs = require('./lib/blobs')
const rpc = require('./lib/rpc')
const peer = require('./lib/node')
const messages = require('./lib/messages')
const { emit, fail, measure } = require('./lib/output')
const { ErrorType, Response, methods, toJson } = messages

const USAGE = `A Walkie peer made of the original's libraries. Prints one JSON line per event.

node peer.js identity --identity FILE
  Prints the peer id of an identity file; makes the file if it is not there.
node peer.js serve [--identity FILE] [--role WR_DATA_PROVIDER_INT] [--listen ADDR]... [--boot ADDR]...
    [--mdns] [--mdns-interval MS] [--mdns-silent] [--chain-identity X] [--bridge-identity Y] [--answers FILE]
    [--blobs FILE] [--shy] [--quiet]
  Answers the methods in FILE ({"Method": answer, or {"$error": [type, message]}}), Hello, GetBlobByKey and /blob;
  says Hello to whom it discovers and who dials it (not if --shy). With --mdns-silent it asks by mDNS and does not
  answer; with --quiet it prints no requests and connections. Takes commands on stdin, one JSON line each with an
  "id", and ends with stdin:
    {"command": "call", "addr": ADDR, "method": M, "request": {...}}    over a connection of its own
    {"command": "call", "addr": ADDR, "kept": true, ...}                over one that stays
    {"command": "raw", "addr": ADDR, "protocol": P, "hex": BYTES}       bytes as they are; hex of the answer
    {"command": "blob", "addr": ADDR, "key": K}                         /blob: size and SHA-256; and with
                       "decode": "Genesis" or "RangeMeta" what the message says, with "whole": true all bytes
    {"command": "ping", "addr": ADDR}
    {"command": "identify", "addr": ADDR}                               what identify says of it
    {"command": "hangup", "addr": ADDR}                                 closes the connections with that peer
    {"command": "peers"}                                                who answered Hello
    {"command": "connections"}                                          which connections are open
node peer.js call --addr ADDR --method M [--json REQUEST]
node peer.js bench --addr ADDR [--method Hello] [--json REQUEST] [--fresh] [--parallel 1] [--seconds 5]
  Calls over one kept connection, or with --fresh over a connection per call.`

const options = {
  identity: { type: 'string' },
  role: { type: 'string', default: 'WR_CLIENT' },
  listen: { type: 'string', multiple: true, default: [] },
  boot: { type: 'string', multiple: true, default: [] },
  mdns: { type: 'boolean', default: false },
  'mdns-interval': { type: 'string', default: '20000' },
  'mdns-silent': { type: 'boolean', default: false },
  'chain-identity': { type: 'string', default: '' },
  'bridge-identity': { type: 'string', default: 'default' },
  answers: { type: 'string' },
  blobs: { type: 'string' },
  shy: { type: 'boolean', default: false },
  quiet: { type: 'boolean', default: false },
  addr: { type: 'string' },
  method: { type: 'string', default: 'Hello' },
  json: { type: 'string' },
  fresh: { type: 'boolean', default: false },
  parallel: { type: 'string', default: '1' },
  seconds: { type: 'string', default: '5' }
}

async function withConnection (node, addr, use) {
  const connection = await peer.dial(node, addr)
  try {
    return await use(connection)
  } finally {
    await connection.close()
  }
}

function handlers (info, values, find, emit) {
  const answers = values.answers ? JSON.parse(fs.readFileSync(values.answers)) : {}
  const made = {
    Hello: () => info,
    GetBlobByKey: ({ key }) => {
      const data = find(key)
      return data ? { key, empty: false, data } : { key, empty: true }
    }
  }
  for (const [method, answer] of Object.entries(answers)) {
    made[method] = () => {
      if (answer.$error) throw new rpc.HandlerError(ErrorType[answer.$error[0]], answer.$error[1])
      return answer
    }
  }
  for (const [method, handler] of Object.entries(made)) {
    made[method] = (request, { peerId, nonce }) => {
      emit('request', { method, peerId, nonce, request })
      return handler(request)
    }
  }
  return made
}

const commands = {
  async call (node, _, { addr, method, request, kept }) {
    if (kept) return rpc.call(await node.dial(addr), method, request)
    return withConnection(node, addr, connection => rpc.call(connection, method, request))
  },
  async raw (node, _, { addr, protocol, hex }) {
    const bytes = await withConnection(node, addr, connection => rpc.exchange(connection, protocol, Buffer.from(hex, 'hex')))
    const response = protocol === rpc.PB ? toJson(Response, Response.decode(bytes)) : undefined
    return { hex: bytes.toString('hex'), response }
  },
  async blob (node, _, { addr, key, decode, whole }) {
    const bytes = await withConnection(node, addr, connection => rpc.exchange(connection, rpc.BLOB, Buffer.from(key)))
    const message = decode && toJson(messages[decode], messages[decode].decode(bytes))
    const base64 = whole && bytes.toString('base64')
    return { size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex'), message, base64 }
  },
  async ping (node, _, { addr }) {
    return withConnection(node, addr, async connection => {
      const sent = randomBytes(32)
      const start = performance.now()
      const echo = await rpc.exchange(connection, '/ipfs/ping/1.0.0', sent)
      return { same: echo.equals(sent), ms: performance.now() - start }
    })
  },
  async identify (node, _, { addr }) {
    return withConnection(node, addr, async connection => {
      await node.identifyService.identify(connection)
      const about = name => Buffer.from(node.peerStore.metadataBook.getValue(connection.remotePeer, name) || '').toString()
      return {
        agent: about('AgentVersion'),
        protocolVersion: about('ProtocolVersion'),
        protocols: node.peerStore.protoBook.get(connection.remotePeer),
        multiplexer: connection.stat.multiplexer,
        encryption: connection.stat.encryption
      }
    })
  },
  async hangup (node, _, { addr }) {
    await node.hangUp(addr)
  },
  async peers (_, acquaintances) {
    return { peers: Object.fromEntries(acquaintances.known) }
  },
  async connections (node) {
    const open = []
    for (const [peerId, all] of node.connections) {
      for (const { stat, remoteAddr } of all) open.push({ peerId, direction: stat.direction, remoteAddr: remoteAddr.toString() })
    }
    return { open }
  }
}

async function obey (node, acquaintances, line) {
  const { id, command, ...parameters } = JSON.parse(line)
  try {
    emit('done', { id, ...await commands[command](node, acquaintances, parameters) })
  } catch (error) {
    emit('failed', { id, message: error.message, code: error.code })
  }
}

async function serve (values) {
  const peerId = await peer.identity(values.identity)
  const node = await peer.create({
    peerId,
    listen: values.listen,
    boot: values.boot,
    mdns: values.mdns,
    mdnsInterval: Number(values['mdns-interval']),
    mdnsSilent: values['mdns-silent']
  })
  const info = peer.systemInfo(peerId, {
    role: values.role,
    chainIdentity: values['chain-identity'],
    bridgeIdentity: values['bridge-identity']
  })
  const find = blobs.store(values.blobs)
  const report = values.quiet ? () => {} : emit
  rpc.serve(node, handlers(info, values, find, report), find)
  for (const [event, name] of [['peer:connect', 'connected'], ['peer:disconnect', 'disconnected']]) {
    node.connectionManager.on(event, ({ remotePeer, remoteAddr, stat }) => report(name, {
      peerId: remotePeer.toB58String(),
      direction: stat.direction,
      remoteAddr: remoteAddr.toString(),
      multiplexer: stat.multiplexer
    }))
  }
  const acquaintances = values.shy ? { known: new Map() } : new peer.Acquaintances(node, info, emit)
  await node.start()
  emit('listening', { peerId: peerId.toB58String(), addresses: node.multiaddrs.map(String) })
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', line => obey(node, acquaintances, line))
  lines.on('close', () => process.exit(0))
}

async function client () {
  const node = await peer.create({ peerId: await peer.identity(), dht: false })
  await node.start()
  return node
}

async function call ({ addr, method, json }) {
  const node = await client()
  emit('answer', await withConnection(node, addr, connection => rpc.call(connection, method, JSON.parse(json || '{}'))))
  process.exit(0)
}

async function bench ({ addr, method, json, fresh, parallel, seconds }) {
  const node = await client()
  const request = JSON.parse(json || '{}')
  const checked = async connection => {
    const { hasError, error } = await rpc.call(connection, method, request)
    if (hasError) throw new Error(error.message)
  }
  const kept = fresh ? undefined : await peer.dial(node, addr)
  const once = kept ? () => checked(kept) : () => withConnection(node, addr, checked)
  await once()
  const figures = await measure({ parallel: Number(parallel), seconds: Number(seconds) }, async () => once)
  emit('bench', { method, connection: fresh ? 'per call' : 'kept', parallel: Number(parallel), ...figures })
  process.exit(0)
}

async function identity (values) {
  if (!values.identity) return fail(USAGE)
  const peerId = await peer.identity(values.identity)
  emit('identity', { peerId: peerId.toB58String(), keyType: peerId.privKey.constructor.name })
}

async function main () {
  const { values, positionals: [command] } = parseArgs({ allowPositionals: true, options })
  const known = { identity, serve, call, bench }
  if (!known[command] || (values.addr === undefined && ['call', 'bench'].includes(command)) || !methods[values.method]) return fail(USAGE)
  await known[command](values)
}

main().catch(fail)
