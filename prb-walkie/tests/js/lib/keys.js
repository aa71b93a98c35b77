'use strict'

// The original's keys for blobs.

const genesis = paraId => `genesis:${paraId}:pb`
const headerRange = relay => `rangeByParentBlock:${relay}:pb`
const blockRange = para => `rangeParaBlock:key:${para}`
const block = para => `dryParaBlock:${para}`

// Whether a key is one that an original knows.
const isOriginal = key => /^(genesis:\d+:pb|rangeByParentBlock:|drySyncHeader:|blobRange:|rangeParaBlock:|dryParaBlock:)/.test(key)

module.exports = { genesis, headerRange, blockRange, block, isOriginal }
