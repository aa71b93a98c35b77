//! The inventory in memory against the seam's suite.

use prb_core::{conformance, inventory::memory::MemoryInventory};

#[tokio::test]
async fn conforms() {
    conformance::inventory::all(async |limits| MemoryInventory::new(limits)).await;
}
