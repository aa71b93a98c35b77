//! Decodes answers of workers to every method.

use std::{cell::OnceCell, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    attestation::{CollateralSource, Expected, NoCollateral, RegistrationRequest, registration},
    primitives::{AccountId, Hash, WorkerKey},
    prpc::{self, Method},
    pruntime::{Error, PRuntime, PRuntimeClient, endpoints},
};
use tokio::runtime::{Builder, Runtime};

/// A worker with one answer to everything.
#[derive(Debug)]
struct Answering(Bytes);

#[async_trait]
impl PRuntimeClient for Answering {
    async fn call(&self, _: Method, _: Bytes) -> Result<Bytes, Error> {
        Ok(self.0.clone())
    }

    async fn kick(&self) -> Result<(), Error> {
        Ok(())
    }
}

thread_local! {
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    let worker = PRuntime::new(Arc::new(Answering(Bytes::copy_from_slice(bytes))));
    RUNTIME.with(|runtime| {
        let new = || Builder::new_current_thread().enable_time().build().unwrap();
        runtime.get_or_init(new).block_on(ask(&worker));
    });
}

/// The worker that the seeds are of.
pub const fn expected() -> Expected {
    Expected::new(WorkerKey([3; 32]), AccountId([4; 32]), Hash([5; 32]), 2035)
}

async fn ask(worker: &PRuntime) {
    let _ = worker.info().await;
    let _ = worker.init(&prpc::InitRuntimeRequest::default()).await;
    let _ = worker.runtime_info(&prpc::GetRuntimeInfoRequest::default()).await;
    let sources = [None, Some(&NoCollateral::new("none") as &dyn CollateralSource)];
    for source in sources {
        let _ = registration(worker, &expected(), &mut RegistrationRequest::new(false), None, source).await;
    }
    let _ = worker.sync_headers(Bytes::new()).await;
    let _ = worker.dispatch_blocks(Bytes::new()).await;
    let _ = worker.egress_messages().await;
    let _ = worker.load_chain_state(&prpc::ChainState::default()).await;
    let _ = worker.take_checkpoint().await;
    let wanted = ["http://a:1".to_owned()];
    // No input has a valid signature.
    let signed = endpoints::announcement(worker, WorkerKey([3; 32]), &wanted, 1_000).await;
    assert!(signed.is_err(), "{signed:?}");
}
