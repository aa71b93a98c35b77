//! Runs the submitter on the seam's conformance suite, on the devnet.

use std::sync::Arc;

use prb_core::{
    chain::{Call, ChainSubmitter},
    conformance::submitter::{self, TestChain},
    primitives::ParaNumber,
    signer::Signer,
};
use prb_devnet::Config;

use crate::net::{Claiming, Net, Worker, signer_of};

impl TestChain for Net {
    fn submitter(&self) -> Arc<dyn ChainSubmitter> {
        Arc::new(Self::submitter(self))
    }

    fn signer(&self) -> Arc<dyn Signer> {
        Self::signer(self, 0)
    }

    fn forged(&self) -> Arc<dyn Signer> {
        Arc::new(Claiming(self.operator(0), signer_of("//Mallory")))
    }

    fn poor(&self) -> Arc<dyn Signer> {
        signer_of("//Poor")
    }

    fn call(&self, n: u32) -> Call {
        Worker::new(n).register(self)
    }

    fn make_block(&self) {
        self.tick();
    }

    fn finalised(&self) -> ParaNumber {
        ParaNumber(self.devnet.para().finalized_number())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submitter_passes_conformance_suite() {
    let net = Net::start(Config::default()).await;
    submitter::all(&net).await;
    net.stop().await;
}
