//! Decodes packets from the local network.

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    prb_walkie::fuzzing::read_mdns(bytes);
}
