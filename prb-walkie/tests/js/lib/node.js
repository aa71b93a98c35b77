'use strict'

// A libp2p node with the protocols and the manners of an original: mplex alone, noise, a DHT server on the LAN,
// legacy mDNS, boot nodes; it says Hello where it dials and hangs up.

const fs = require('fs')
const os = require('os')
const Libp2p = require('libp2p')
const Bootstrap = require('libp2p-bootstrap')
const KadDHT = require('libp2p-kad-dht')
const MulticastDNS = require('libp2p-mdns')
const Mplex = require('libp2p-mplex')
const TCP = require('libp2p-tcp')
const { NOISE } = require('@chainsafe/libp2p-noise')
const { Multiaddr } = require('multiaddr')
const PeerId = require('peer-id')
const rpc = require('./rpc')

// The identity in `file`, which is made if it is not there; a throw-away one without a name.
async function identity (file) {
  if (file && fs.existsSync(file)) return PeerId.createFromProtobuf(fs.readFileSync(file))
  const made = await PeerId.create({ keyType: 'RSA', bits: 2048 })
  if (file) fs.writeFileSync(file, made.marshal())
  return made
}

function create ({ peerId, listen = [], boot = [], mdns = false, mdnsInterval = 20000, mdnsSilent = false, dht = true }) {
  const peerDiscovery = [...(mdns ? [MulticastDNS] : []), ...(boot.length ? [Bootstrap] : [])]
  return Libp2p.create({
    peerId,
    addresses: { listen },
    modules: {
      transport: [TCP],
      streamMuxer: [Mplex],
      connEncryption: [NOISE],
      peerDiscovery,
      ...(dht ? { dht: KadDHT } : {})
    },
    config: {
      dht: { enabled: dht },
      nat: { enabled: false },
      peerDiscovery: {
        autoDial: false,
        mdns: { enabled: mdns, interval: mdnsInterval, broadcast: !mdnsSilent },
        bootstrap: { enabled: boot.length > 0, list: boot }
      }
    }
  })
}

// A new connection to an address, whatever connections there are.
async function dial (node, address) {
  return node.transportManager.dial(new Multiaddr(address))
}

// A new connection to the first address that works of a peer that the node has heard of.
async function dialPeer (node, peerId) {
  const known = node.peerStore.addressBook.get(peerId) || []
  let last = new Error(`no address known of ${peerId.toB58String()}`)
  for (const { multiaddr } of known) {
    const whole = multiaddr.getPeerId() ? multiaddr : multiaddr.encapsulate(`/p2p/${peerId.toB58String()}`)
    try {
      return await dial(node, whole)
    } catch (error) {
      last = error
    }
  }
  throw last
}

// Says Hello once to each peer that is discovered or that dials us, keeps what it answers, hangs up.
class Acquaintances {
  constructor (node, info, emit) {
    this.node = node
    this.info = info
    this.emit = emit
    this.tried = new Set()
    this.known = new Map()
    node.on('peer:discovery', peerId => {
      emit('discovered', { peerId: peerId.toB58String(), addresses: this.addresses(peerId) })
      if (this.addresses(peerId).length) this.meet(peerId)
    })
    node.peerStore.on('change:multiaddrs', ({ peerId }) => {
      if (!peerId.equals(node.peerId)) this.meet(peerId)
    })
  }

  addresses (peerId) {
    return (this.node.peerStore.addressBook.get(peerId) || []).map(({ multiaddr }) => multiaddr.toString())
  }

  async meet (peerId) {
    const id = peerId.toB58String()
    if (this.tried.has(id)) return
    this.tried.add(id)
    let connection
    try {
      connection = await dialPeer(this.node, peerId)
      await this.hello(connection)
    } catch (error) {
      this.emit('hello-failed', { peerId: id, message: error.message })
    } finally {
      if (connection) await connection.close().catch(() => {})
    }
  }

  async hello (connection) {
    const peerId = connection.remotePeer.toB58String()
    const { data, error } = await rpc.call(connection, 'Hello', this.info)
    if (error) throw new Error(`Hello was refused: ${error.message}`)
    this.known.set(peerId, { ...data, remoteAddr: connection.remoteAddr.toString() })
    this.emit('hello-answered', { peerId, remoteAddr: connection.remoteAddr.toString(), info: data })
    return data
  }
}

const systemInfo = (peerId, { role, chainIdentity, bridgeIdentity }) => ({
  hostname: os.hostname(),
  peerId: peerId.toB58String(),
  role,
  chainIdentity,
  bridgeIdentity
})

module.exports = { identity, create, dial, dialPeer, Acquaintances, systemInfo }
