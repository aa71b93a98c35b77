'use strict'

// The blob wire: frames with a varint length; requests of id and key, answers of id, CRC-32C and payload.

const net = require('net')
const { randomBytes } = require('crypto')
const crc32c = require('fast-crc32c')
const lps = require('length-prefixed-stream')

const ID = 8
const HEADER = 16
const TIMEOUT = 30000

function frames (socket, onFrame) {
  const encoder = lps.encode()
  encoder.pipe(socket)
  socket.pipe(lps.decode()).on('data', onFrame)
  return encoder
}

class BlobClient {
  static connect ({ host, port }) {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ host, port })
      socket.once('error', reject)
      socket.once('connect', () => resolve(new BlobClient(socket)))
    })
  }

  constructor (socket) {
    this.socket = socket
    this.waiting = new Map()
    this.encoder = frames(socket, frame => this.onFrame(frame))
    const end = error => {
      for (const { reject } of this.waiting.values()) reject(error || new Error('the connection was closed'))
      this.waiting.clear()
    }
    socket.on('error', end)
    socket.on('close', () => end())
  }

  onFrame (frame) {
    const id = frame.slice(0, ID).toString('hex')
    const call = this.waiting.get(id)
    if (!call) return
    this.waiting.delete(id)
    clearTimeout(call.timer)
    if (frame.length <= HEADER) return call.resolve(null)
    const payload = frame.slice(HEADER)
    if (frame.readBigUInt64BE(ID) !== BigInt(crc32c.calculate(payload))) return call.reject(new Error('CRC mismatch'))
    call.resolve(payload)
  }

  get (key) {
    const id = randomBytes(ID)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id.toString('hex'))
        reject(new Error('timed out'))
      }, TIMEOUT)
      this.waiting.set(id.toString('hex'), { resolve, reject, timer })
      this.encoder.write(Buffer.concat([id, Buffer.from(key)]))
    })
  }

  close () {
    for (const { timer } of this.waiting.values()) clearTimeout(timer)
    this.socket.destroy()
  }
}

// An answer's frame, without its length.
function encodeAnswer (id, payload, crc) {
  if (!payload || !payload.length) return id
  const header = Buffer.alloc(HEADER)
  id.copy(header)
  header.writeBigUInt64BE(BigInt(crc), ID)
  return Buffer.concat([header, payload])
}

// Besides what `blobs` has, for clients that are to be tested: `corrupt:KEY` answers KEY's blob with one bit
// flipped, `late:MS:KEY` answers after others, `silent` never.
function serve (blobs, onRequest = () => {}) {
  return net.createServer(socket => {
    socket.on('error', () => {})
    const encoder = frames(socket, frame => {
      if (frame.length <= ID) return
      const id = frame.slice(0, ID)
      const key = frame.slice(ID).toString('utf8').trim()
      onRequest(key)
      if (key === 'silent') return
      const late = /^late:(\d+):(.*)$/.exec(key)
      const corrupt = /^corrupt:(.*)$/.exec(key)
      const payload = blobs(late ? late[2] : corrupt ? corrupt[1] : key)
      const crc = payload ? crc32c.calculate(payload) : 0
      const sent = corrupt && payload ? Buffer.from(payload) : payload
      if (corrupt && sent) sent[sent.length >> 1] ^= 1
      const answer = () => socket.destroyed || encoder.write(encodeAnswer(id, sent, crc))
      late ? setTimeout(answer, Number(late[1])) : answer()
    })
  })
}

module.exports = { BlobClient, serve }
