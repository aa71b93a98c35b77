'use strict'

// One call, one stream: the caller writes and half-closes, the other side answers and closes.

const { randomUUID } = require('crypto')
const { pipe } = require('it-pipe')
const { Request, Response, ErrorType, methods, encode, toJson, encodeRequest, decodeResponse } = require('./messages')

const PB = '/pb'
const BLOB = '/blob'
const CHUNK = 1 << 20

function * chunks (bytes) {
  for (let at = 0; at < bytes.length; at += CHUNK) yield bytes.slice(at, at + CHUNK)
}

async function collect (source) {
  const parts = []
  for await (const part of source) parts.push(part.slice())
  return Buffer.concat(parts)
}

// Sends `bytes` over a stream of `protocol` and gives the whole answer.
async function exchange (connection, protocol, bytes) {
  const { stream } = await connection.newStream(protocol)
  return pipe(chunks(bytes), stream, collect)
}

async function call (connection, method, json) {
  const { nonce, bytes } = encodeRequest(method, json)
  const answer = decodeResponse(method, await exchange(connection, PB, bytes))
  if (answer.meta.requestNonce !== nonce) throw new Error(`the answer is for the request ${answer.meta.requestNonce}`)
  return answer
}

class HandlerError extends Error {
  constructor (type, message) {
    super(message)
    this.type = type
  }
}

async function answer (handlers, bytes, context) {
  let request
  const reply = fields => encode(Response, { createdAt: Date.now(), nonce: randomUUID(), ...fields })
  try {
    request = Request.decode(bytes)
    const { request: requestType, response: responseType } = methods[request.method]
    const handler = handlers[request.method]
    if (!handler) throw new HandlerError(ErrorType.NOT_FOUND, 'Handler not implemented.')
    const json = toJson(requestType, requestType.decode(request.data))
    const result = await handler(json, { ...context, nonce: request.nonce })
    return reply({ requestNonce: request.nonce, data: encode(responseType, result), hasError: false })
  } catch (error) {
    const type = error instanceof HandlerError ? error.type : ErrorType.SERVER
    return reply({
      requestNonce: request && request.nonce,
      hasError: true,
      error: { type, message: error.message }
    })
  }
}

// Serves `/pb` with `handlers` (method name → async (request, context) → answer), and `/blob` from `blobs`
// (key → Buffer or undefined), if there are any.
function serve (node, handlers, blobs) {
  const respond = protocol => respondTo => node.handle(protocol, async ({ connection, stream }) => {
    try {
      const bytes = await respondTo(await collect(stream.source), { peerId: connection.remotePeer.toB58String() })
      await pipe(chunks(bytes), stream.sink)
    } catch (error) {
      process.stderr.write(`${protocol}: ${error.message}\n`)
    }
  })
  respond(PB)((bytes, context) => answer(handlers, bytes, context))
  if (blobs) respond(BLOB)(async key => await blobs(key.toString('utf8')) || Buffer.alloc(0))
}

module.exports = { PB, BLOB, HandlerError, exchange, call, serve }
