//! [`Client`]: typed calls of a peer's methods.

use bytes::Bytes;
use libp2p::PeerId;
use prost::Message;

use super::{Call, Error, bounded, calls};
use crate::{
    node::Node,
    proto::{Empty, WorkerStateUpdate, data_provider as dp, detail, lifecycle as lm},
};

/// Larger answers are decoded on a blocking thread.
const LARGE_BYTES: usize = 256 * 1024;

/// Calls one peer. Clones are cheap.
///
/// A call can be cancelled by dropping its future; the peer may have carried it out nevertheless.
///
/// A program that manages workers calls a lifecycle manager. [`auth`](super::auth) says whose management calls it answers.
///
/// ```
/// use prb_walkie::{
///     node::Node,
///     proto::{Role, WorkerStatus, db, detail::{CommandRequest, StatusQuery}, lifecycle::CreateWorker},
///     rpc::{Client, Error},
/// };
///
/// /// Waits for a lifecycle manager of this node's chain and namespace.
/// async fn manager(node: &Node) -> Option<Client> {
///     let mut peers = node.peers();
///     let table = peers.wait_for(|table| table.usable(Role::LifecycleManager).next().is_some()).await.ok()?;
///     table.usable(Role::LifecycleManager).next().map(|peer| node.client(peer.peer_id))
/// }
///
/// /// Restarts the workers that fail or stall.
/// async fn restart_failed(manager: &Client) -> Result<(), Error> {
///     let update = manager.worker_detail(StatusQuery { detail: true, ..StatusQuery::default() }).await?;
///     // In the same order; absent if the peer is an original.
///     let details = update.detail.unwrap_or_default().workers;
///     let failed = update.worker_states.iter().zip(&details);
///     let failed = failed.filter(|(state, detail)| state.status() == WorkerStatus::Error || detail.stalled);
///     let ids: Vec<_> = failed.map(|(_, detail)| detail.uuid.clone()).collect();
///     if !ids.is_empty() {
///         let request = CommandRequest { ids, command: "restart".into(), dry_run: false };
///         for answer in manager.command_workers(request).await?.answers {
///             println!("{}: {}", answer.uuid, answer.text);
///         }
///     }
///     Ok(())
/// }
///
/// /// Adds a worker that stakes 100 PHA; returns its UUID.
/// async fn add(manager: &Client, pid: u64, name: &str, endpoint: &str) -> Result<Option<String>, Error> {
///     let (name, endpoint, stake) = (name.into(), endpoint.into(), "100000000000000".into());
///     let worker = db::Worker { pid, name, endpoint, stake, enabled: true, ..db::Worker::default() };
///     let added = manager.create_workers(CreateWorker { workers: vec![worker] }).await?;
///     Ok(added.workers.into_iter().next().map(|worker| worker.uuid))
/// }
/// ```
///
/// # Errors
/// See [`Error`]. On `UNAUTHORIZED`, a node that has a key sends one `Auth` and repeats the call.
#[derive(Clone, Debug)]
pub struct Client {
    node: Node,
    peer: PeerId,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident: $call:ident($($argument:ident: $request:ty)?) -> $response:ty;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// See [`Client`].
                pub async fn $name(&self $(, $argument: $request)?) -> Result<$response, Error> {
                    #[allow(unused_variables, reason = "some methods ask nothing")]
                    let request = Empty {};
                    $(let request = $argument;)?
                    self.call(calls::$call, request).await
                }
            )*
        }
    };
}

methods! {
    /// Returns a data provider's progress.
    data_provider_info: GetDataProviderInfo() -> dp::Info;
    /// Asks an external data provider for a block.
    want_blob: WantBlob(block: dp::WantBlob) -> dp::BlobMeta;
    /// Fetches that block.
    blob_with_token: GetBlobWithToken(token: dp::GetBlob) -> dp::Blob;
    /// Lists all pools.
    list_pools: ListPool() -> lm::PoolList;
    /// Creates pools.
    create_pools: CreatePool(pools: lm::CreatePool) -> lm::PoolList;
    /// Changes or deletes pools.
    update_pools: UpdatePool(changes: lm::UpdatePool) -> lm::PoolList;
    /// Lists all workers.
    list_workers: ListWorker() -> lm::WorkerList;
    /// Creates workers.
    create_workers: CreateWorker(workers: lm::CreateWorker) -> lm::WorkerList;
    /// Changes or deletes workers.
    update_workers: UpdateWorker(changes: lm::UpdateWorker) -> lm::WorkerList;
    /// Restarts workers.
    restart_workers: RestartWorker(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// Renews workers' attestation and restarts them.
    refresh_ra_and_restart_workers: RefreshRaAndRestartWorker(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// Stops workers' pRuntime.
    kick_workers: KickWorker(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// Returns workers' states; those of all workers if no id is given.
    worker_status: GetWorkerStatus(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// As [`worker_status`](Self::worker_status) with details, from peers of this implementation.
    worker_detail: GetWorkerDetail(workers: detail::StatusQuery) -> detail::StatusUpdate;
    /// Gives workers any command, or previews its effect; originals do not know the method.
    command_workers: CommandWorker(command: detail::CommandRequest) -> detail::CommandUpdate;
}

impl Client {
    pub(crate) const fn new(node: Node, peer: PeerId) -> Self {
        Self { node, peer }
    }

    /// The called peer.
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// Calls any method.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn call<C: Call>(&self, _call: C, request: C::Request) -> Result<C::Response, Error> {
        let data = Bytes::from(request.encode_to_vec());
        let answer = self.node.call(self.peer, C::METHOD, data).await?;
        let decoded = if answer.len() > LARGE_BYTES {
            // Takes up to a second: in an executor's thread, it would hold up everything else.
            let decoded = tokio::task::spawn_blocking(move || bounded::decode(answer)).await;
            decoded.unwrap_or_else(|error| Err(error.to_string()))
        } else {
            bounded::decode(answer)
        };
        decoded.map_err(|reason| Error::Malformed { peer: self.peer, reason })
    }

    /// Fetches a blob by its key with the call `GetBlobByKey`; `None` if the peer does not have it.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn blob_by_key(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let blob = self.call(calls::GetBlobByKey, dp::GetBlobByKey { key: key.to_owned() }).await?;
        Ok((!blob.empty && !blob.data.is_empty()).then_some(blob.data))
    }

    /// Fetches a blob by its key with the protocol `/blob`; `None` if the peer does not have it.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn blob(&self, key: &str) -> Result<Option<Bytes>, Error> {
        self.node.blob(self.peer, key).await
    }
}
