//! Tests of the verifying worker: fixtures, and a module for each part.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use codec::Encode;
use prb_core::prpc::PhactoryInfo;

use self::chain::{MiniChain, START};
use super::{
    Refusal, Shared,
    identity::Identity,
    verifier::{Init, Options, Verifier},
};

mod attestation;
mod chain;
mod http;
mod life;
mod para;
mod relay;
mod state;

fn options() -> Options {
    Options {
        identity: Identity::derive(b"test", 0),
        score: 2000,
        attestation_methods: vec!["epid".into(), "dcap".into()],
        first_version: false,
        version: (2, 2, 0),
        work_faults: Arc::default(),
        shared: Shared::default(),
    }
}

fn verifier(shared: &Shared) -> Verifier {
    Verifier::new(Arc::new(Options { shared: shared.clone(), ..options() }))
}

fn init(chain: &MiniChain) -> Init {
    Init {
        genesis: chain.genesis_info(),
        state: chain.state(0),
        operator: None,
        debug_key: None,
        provider: None,
        is_parachain: true,
    }
}

/// A worker at the start of the chain.
fn started(chain: &MiniChain) -> Verifier {
    let mut worker = verifier(&Shared::default());
    worker.init(init(chain)).unwrap();
    worker
}

/// A worker with relay headers up to `relay` and all parachain headers that they prove.
fn with_headers(chain: &MiniChain, relay: u32) -> Verifier {
    let mut worker = started(chain);
    for number in START + 1..=relay {
        worker.sync_relay(chain.relay_headers(number..=number)).unwrap();
    }
    worker.sync_para(chain.para_headers(0..=relay - 2), &chain.proof(relay)).unwrap();
    worker
}

fn cursors(worker: &Verifier) -> (u32, u32, u32) {
    let PhactoryInfo { headernum, para_headernum, blocknum, .. } = worker.info();
    (headernum, para_headernum, blocknum)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    result.unwrap_err().to_string()
}
