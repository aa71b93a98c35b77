//! The chain in memory as a reader, against the seam's suite.

use async_trait::async_trait;
use prb_core::{
    chain::{
        ChainReader, Registration,
        memory::{Config, MemoryChain},
    },
    conformance::reader::{self, Controls, WORKERS},
    primitives::WorkerKey,
};

#[derive(Debug)]
struct Memory(MemoryChain);

impl Memory {
    fn new(view_delay_blocks: u32) -> Self {
        let config =
            Config::default().with_max_tracked(WORKERS + 1).with_view_delay_blocks(view_delay_blocks);
        let chain = MemoryChain::new(config);
        for n in 0..WORKERS {
            let pubkey = key(n);
            let registration = Registration {
                pubkey,
                ecdh_pubkey: [0; 32],
                runtime_version: 1,
                last_updated: 0,
                operator: None,
                attestation_provider: None,
                confidence_level: 1,
                initial_score: None,
                features: vec![],
            };
            chain.set_registration(pubkey, Some(registration));
        }
        Self(chain)
    }
}

fn key(n: usize) -> WorkerKey {
    WorkerKey([u8::try_from(n).unwrap_or(u8::MAX); 32])
}

#[async_trait]
impl Controls for Memory {
    fn reader(&self) -> &dyn ChainReader {
        &self.0
    }

    fn worker(&self, n: usize) -> WorkerKey {
        key(n)
    }

    async fn progress(&self) {
        self.0.produce_block();
    }

    async fn change(&self, worker: WorkerKey) {
        self.0.set_ingress(worker, self.0.worker(worker).ingress_sequence + 1);
        self.0.produce_block();
    }

    async fn set_unreadable(&self, worker: WorkerKey, unreadable: bool) {
        self.0.set_unreadable(worker, unreadable.then_some("PhalaRegistry::Workers has another layout"));
    }

    async fn close(&self) {
        self.0.close_views();
    }
}

#[tokio::test(start_paused = true)]
async fn conforms() {
    reader::all(async || Memory::new(0)).await;
}

#[tokio::test(start_paused = true)]
async fn conforms_with_late_views() {
    reader::all(async || Memory::new(3)).await;
}
