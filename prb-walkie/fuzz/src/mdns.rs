//! Packets from anybody on the local network.

/// Reads a packet.
pub fn run(bytes: &[u8]) {
    prb_walkie::fuzzing::read_mdns(bytes);
}
