'use strict'

const path = require('path')
const protobuf = require('protobufjs')
const { parseArgs } = require('util')
const keys = require('./lib/keys')
const { BlobClient } = require('./lib/blob-wire')
const { Genesis, RangeMeta, encode } = require('./lib/messages')
const { emit, fail } = require('./lib/output')

const USAGE = `node lifecycle-manager.js --port PORT --para-id N --worker URL --until PARA
  Syncs a worker as an original lifecycle manager does: asks the blob server at that port of 127.0.0.1 with the
  original's keys, and posts the blobs to the worker's bin_api as they are. Ends with the parachain block; prints
  how far the worker is then, and how often which kind of key was asked.`

const PAUSE_MS = 200

const prpc = protobuf.loadSync(path.join(__dirname, 'proto', 'prpc.proto'))
const InitRuntimeRequest = prpc.lookupType('pruntime_rpc.InitRuntimeRequest')

class Worker {
  constructor (endpoint) {
    this.endpoint = endpoint
    this.relay = this.para = this.dispatched = 0
  }

  async post (place, body) {
    const response = await fetch(`${this.endpoint}/${place}`, { method: 'POST', body })
    if (!response.ok) throw new Error(`${place}: ${response.status} ${await response.text()}`)
    return response
  }

  async bin (method, body) {
    const { status, payload } = await (await this.post(`bin_api/${method}`, body)).json()
    if (status !== 'ok') throw new Error(`${method}: ${payload}`)
    return JSON.parse(payload)
  }

  async init ({ parentNumber, bridgeGenesisInfo, genesisState }) {
    await this.post('prpc/PhactoryAPI.InitRuntime', encode(InitRuntimeRequest, {
      skipRa: true,
      encodedGenesisInfo: bridgeGenesisInfo,
      encodedGenesisState: genesisState,
      isParachain: true
    }))
    this.relay = parentNumber
  }

  async headers (request) {
    const answer = await this.bin('sync_combined_headers', request)
    this.relay = answer.relaychain_synced_to
    this.para = Math.max(this.para, answer.parachain_synced_to)
  }

  async blocks (request) {
    this.dispatched = (await this.bin('dispatch_block', request)).dispatched_to
  }
}

async function sync (client, worker, paraId, until) {
  const asked = {}
  // What is missing is not there yet.
  const get = async key => {
    const kind = key.replace(/:-?\d+/g, '')
    asked[kind] = (asked[kind] || 0) + 1
    for (;;) {
      const blob = await client.get(key)
      if (blob) return blob
      await new Promise(resolve => setTimeout(resolve, PAUSE_MS))
    }
  }
  await worker.init(Genesis.decode(await get(keys.genesis(paraId))))
  while (worker.dispatched < until) {
    const meta = RangeMeta.decode(await get(keys.headerRange(worker.relay + 1)))
    const whole = worker.para > 0 && meta.blobSyncHeaderReqKey
    await worker.headers(await get(whole || meta.drySyncHeaderReqKey))
    while (worker.dispatched < worker.para) {
      const next = worker.dispatched + 1
      const { bufferKey, lastBlockNumber } = JSON.parse(await get(keys.blockRange(next)))
      // Blocks whose headers the worker does not have yet would be refused.
      await worker.blocks(await get(bufferKey && lastBlockNumber <= worker.para ? bufferKey : keys.block(next)))
    }
  }
  return asked
}

async function main () {
  const text = { type: 'string' }
  const { values } = parseArgs({ options: { port: text, 'para-id': text, worker: text, until: text } })
  if (!values.port || !values['para-id'] || !values.worker || !values.until) return fail(USAGE)
  const client = await BlobClient.connect({ host: '127.0.0.1', port: Number(values.port) })
  const worker = new Worker(values.worker)
  const asked = await sync(client, worker, Number(values['para-id']), Number(values.until))
  emit('synced', { relay: worker.relay, para: worker.para, dispatched: worker.dispatched, asked })
  client.close()
}

main().catch(fail)
