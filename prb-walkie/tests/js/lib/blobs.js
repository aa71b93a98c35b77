'use strict'

const fs = require('fs')

// The byte at `at` of the blob that stands under `pattern:SIZE`.
const patternByte = at => Math.imul(at, 2654435761) >>> 24

function pattern (size) {
  const bytes = Buffer.allocUnsafe(size)
  for (let at = 0; at < size; at++) bytes[at] = patternByte(at)
  return bytes
}

// A look-up of blobs: those of the JSON file {key: hex}, and `pattern:SIZE`, made and kept.
function store (file) {
  const blobs = new Map(file ? Object.entries(JSON.parse(fs.readFileSync(file))).map(([key, hex]) => [key, Buffer.from(hex, 'hex')]) : [])
  return key => {
    const size = /^pattern:(\d+)$/.exec(key)
    if (size && !blobs.has(key)) blobs.set(key, pattern(Number(size[1])))
    return blobs.get(key)
  }
}

module.exports = { store, pattern }
