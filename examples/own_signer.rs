//! A custom signer: operators' keys stay in a key service, and a real node accepts its signatures.
//!
//! Why: an operator's key controls all of a pool's stake. Where keys must stay in a KMS or HSM, jobs carry no sealed
//! key; the trader requests each signature from the service, and waits while it is unavailable. The service here is a
//! task behind a channel; over gRPC or PKCS#11 the two traits are implemented in the same way.
//!
//! `OPERATOR='mnemonic' cargo run --package prb-examples --bin own_signer -- ws://para-node:9944`
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use prb_chain::{keys::OperatorKey, rpc, submit};
use prb_core::{
    chain::{Call, CallBatch, ChainSubmitter},
    primitives::{AccountId, PoolId, WorkerKey},
    queue::JobSigner,
    signer::{Error, SIGNATURE_BYTES, Signer, Signers},
    vault::Sealed,
};
use tokio::sync::{mpsc, oneshot};

type Signature = [u8; SIGNATURE_BYTES];

/// Sends payloads to the service, each with a channel for its signature.
#[derive(Clone, Debug)]
struct KeyService(mpsc::Sender<(Vec<u8>, oneshot::Sender<Signature>)>);

/// The key of one account in the service.
#[derive(Debug)]
struct ServiceKey(KeyService, AccountId);

#[async_trait]
impl Signer for ServiceKey {
    fn account(&self) -> AccountId {
        self.1
    }

    async fn sign(&self, payload: &[u8]) -> Result<Signature, Error> {
        let (answer, signature) = oneshot::channel();
        let unavailable = |source| Error::Unavailable { account: self.1, source };
        (self.0.0).send((payload.to_vec(), answer)).await.map_err(|e| unavailable(Box::new(e)))?;
        signature.await.map_err(|e| unavailable(Box::new(e)))
    }
}

#[async_trait]
impl Signers for KeyService {
    async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
        Ok(Arc::new(ServiceKey(self.clone(), of.operator)))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoint = std::env::args().nth(1).context("give the parachain node's URL")?;
    // The service: nothing else sees the key.
    let key = OperatorKey::from_secret(&std::env::var("OPERATOR").context("OPERATOR is not set")?.into())?;
    let operator = key.account();
    let (requests, mut incoming) = mpsc::channel::<(Vec<u8>, oneshot::Sender<Signature>)>(8);
    let service = tokio::spawn(async move {
        while let Some((payload, answer)) = incoming.recv().await {
            // The receiver is gone if the caller gave up.
            let _ = key.sign(&payload).await.map(|signature| answer.send(signature));
        }
    });

    // `trade::Parts::signers` accepts the service directly; this example signs one batch manually.
    let keys = KeyService(requests);
    let signer = keys.signer(&JobSigner { operator, key: Sealed(Vec::new()), proxied: None }).await?;
    let calls = vec![Call::AddWorker { pool: PoolId(1), worker: WorkerKey([7; 32]) }];
    let nodes = rpc::NodePool::new("para", rpc::Config::new([endpoint]))?;
    let submitter = submit::Submitter::new(nodes, submit::Config::default())?;
    let outcome = submitter.submit(&CallBatch::new(signer, calls), mpsc::channel(8).0).await?;
    println!("final in block {}; an unknown worker: {:?}", outcome.number, outcome.calls);
    drop(keys);
    service.await?;
    Ok(())
}
