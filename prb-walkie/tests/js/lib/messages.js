'use strict'

// The messages and the service, loaded from ../proto by protobuf.js, and the wrappers around each call.

const path = require('path')
const { randomUUID } = require('crypto')
const protobuf = require('protobufjs')

const root = protobuf.loadSync(path.join(__dirname, '..', 'proto', 'walkie.proto'))
root.resolveAll()

const Request = root.lookupType('prb.WalkieRpcRequestWrapper')
const Response = root.lookupType('prb.WalkieRpcResponseWrapper')
const SystemInfo = root.lookupType('prb.WalkieSystemInfo')
const Genesis = root.lookupType('prb.db.Genesis')
const RangeMeta = root.lookupType('prb.db.RangeMeta')
const ErrorType = root.lookupEnum('prb.error.ResponseErrorType').values

const methods = {}
for (const method of root.lookupService('prb.WalkieRpc').methodsArray) {
  methods[method.name] = { request: method.resolvedRequestType, response: method.resolvedResponseType }
}

// A message's bytes. What is set is written, zeros and false included: proto3 encoders elsewhere skip those.
const encode = (type, json) => Buffer.from(type.encode(type.fromObject(json)).finish())

const toJson = (type, message) => type.toObject(message, protobuf.util.toJSONOptions)

// A request, and the nonce that its answer must repeat.
const encodeRequest = (method, json) => {
  const known = methods[method]
  const data = known ? encode(known.request, json || {}) : Buffer.alloc(0)
  const nonce = randomUUID()
  return { nonce, bytes: encode(Request, { createdAt: Date.now(), nonce, data, method }) }
}

// A decoded answer: {data} or {error}, and the wrapper's other fields as `meta`.
const decodeResponse = (method, bytes) => {
  const wrapper = Response.decode(bytes)
  const { data: _, ...meta } = toJson(Response, wrapper)
  if (wrapper.hasError) return { hasError: true, error: toJson(Response.fields.error.resolvedType, wrapper.error), meta }
  const known = methods[method]
  return { hasError: false, data: known && toJson(known.response, known.response.decode(wrapper.data)), meta }
}

module.exports = { Request, Response, SystemInfo, Genesis, RangeMeta, ErrorType, methods, encode, toJson, encodeRequest, decodeResponse }
