//! The vault in memory against the seam's suite.

use prb_core::{conformance, vault::memory::MemoryVault};

#[tokio::test]
async fn conforms() {
    conformance::vault::all(async || MemoryVault::new()).await;
}
