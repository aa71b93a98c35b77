//! Decodes identity files and addresses, as given by an operator.

use prb_walkie::{identity::Identity, node};

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    if let Ok(identity) = Identity::from_bytes(bytes) {
        let again = Identity::from_bytes(&identity.to_bytes().unwrap()).unwrap();
        assert_eq!(again.peer_id(), identity.peer_id());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = node::parse_addresses(text);
    }
}
