'use strict'

// What an original data provider has stored: copied from another one, with the original's keys, range by range.
// Only where it has cut the chain itself does a range of headers begin.

const keys = require('./keys')
const { Genesis, RangeMeta } = require('./messages')

class Copy {
  constructor (client, paraId) {
    this.client = client
    this.paraId = paraId
    this.blobs = new Map()
    this.start = -1
    this.relay = -1
    this.headers = -1
    this.blocks = -1
  }

  async take (key) {
    const blob = await this.client.get(key)
    if (blob) this.blobs.set(key, blob)
    return blob
  }

  // Copies what is there and not copied yet.
  async round () {
    if (this.start < 0) {
      const genesis = await this.take(keys.genesis(this.paraId))
      if (!genesis) return
      this.start = this.relay = Genesis.decode(genesis).parentNumber
      this.blocks = 0
    }
    while (await this.nextHeaders());
    while (this.blocks < this.headers && await this.nextBlocks());
  }

  async nextHeaders () {
    const key = keys.headerRange(this.relay + 1)
    const described = await this.client.get(key)
    if (!described) return false
    const meta = RangeMeta.decode(described)
    for (const named of [meta.drySyncHeaderReqKey, meta.blobSyncHeaderReqKey]) {
      if (named && !await this.take(named)) throw new Error(`${key} names ${named}, which is missing`)
    }
    this.blobs.set(key, described)
    this.relay = meta.parentStopBlock
    this.headers = Math.max(this.headers, meta.paraStopBlock)
    return true
  }

  async nextBlocks () {
    const first = this.blocks + 1
    const described = await this.client.get(keys.blockRange(first))
    // Headers are known before their blocks are fetched.
    if (!described) return false
    const { bufferKey, lastBlockNumber } = JSON.parse(described)
    if (bufferKey && !await this.take(bufferKey)) throw new Error(`${bufferKey} is missing`)
    for (let number = first; number <= lastBlockNumber; number++) {
      this.blobs.set(keys.blockRange(number), described)
      if (!await this.take(keys.block(number))) throw new Error(`block ${number} is missing`)
    }
    this.blocks = lastBlockNumber
    return true
  }

  // GetDataProviderInfo. It knows of no more than it has.
  info (blobServerPort) {
    const para = Math.min(this.blocks, this.headers)
    return {
      status: this.headers < 0 ? 'S_SYHCHING' : 'S_IDLE',
      paraId: this.paraId,
      parentStartHeader: this.start,
      parentTarget: this.relay,
      parentFetchedHeight: this.relay,
      parentProcessedHeight: this.relay,
      parentCommittedHeight: this.relay,
      paraTarget: para,
      paraFetchedHeight: para,
      paraProcessedHeight: para,
      paraCommittedHeight: para,
      blobServerPort
    }
  }
}

module.exports = { Copy }
