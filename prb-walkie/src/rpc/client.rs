//! [`Client`]: a peer's methods as functions.

use bytes::Bytes;
use libp2p::PeerId;
use prost::Message;

use super::{Call, Error, calls};
use crate::{
    node::Node,
    proto::{Empty, WorkerStateUpdate, data_provider as dp, detail, lifecycle as lm},
};

/// Calls one peer. Clones are cheap.
///
/// Every call may be cancelled by dropping its future; the peer may have carried it out all the same.
///
/// # Errors
/// See [`Error`]; `UNAUTHORIZED` is answered by one `Auth` and a second try, where the node has a key.
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
    /// How far a data provider is.
    data_provider_info: GetDataProviderInfo() -> dp::Info;
    /// Asks an external data provider for a block.
    want_blob: WantBlob(block: dp::WantBlob) -> dp::BlobMeta;
    /// Fetches that block.
    blob_with_token: GetBlobWithToken(token: dp::GetBlob) -> dp::Blob;
    /// All pools.
    list_pools: ListPool() -> lm::PoolList;
    /// Makes pools.
    create_pools: CreatePool(pools: lm::CreatePool) -> lm::PoolList;
    /// Changes or deletes pools.
    update_pools: UpdatePool(changes: lm::UpdatePool) -> lm::PoolList;
    /// All workers.
    list_workers: ListWorker() -> lm::WorkerList;
    /// Makes workers.
    create_workers: CreateWorker(workers: lm::CreateWorker) -> lm::WorkerList;
    /// Changes or deletes workers.
    update_workers: UpdateWorker(changes: lm::UpdateWorker) -> lm::WorkerList;
    /// Starts workers again.
    restart_workers: RestartWorker(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// Attests workers anew and starts them again.
    refresh_ra_and_restart_workers: RefreshRaAndRestartWorker(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// Stops workers' pRuntime.
    kick_workers: KickWorker(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// How workers are; all of them where no id is given.
    worker_status: GetWorkerStatus(workers: lm::UuidQueryRequest) -> WorkerStateUpdate;
    /// The same with more, from those who know more than the original.
    worker_detail: GetWorkerDetail(workers: detail::StatusQuery) -> detail::StatusUpdate;
    /// Gives workers any command, or asks what it would do; originals do not know the method.
    command_workers: CommandWorker(command: detail::CommandRequest) -> detail::CommandUpdate;
}

impl Client {
    pub(crate) const fn new(node: Node, peer: PeerId) -> Self {
        Self { node, peer }
    }

    /// Whom it calls.
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
        let malformed = |e: prost::DecodeError| Error::Malformed { peer: self.peer, reason: e.to_string() };
        C::Response::decode(answer).map_err(malformed)
    }

    /// A blob by its key, by the call `GetBlobByKey`; `None` where the peer has none.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn blob_by_key(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let blob = self.call(calls::GetBlobByKey, dp::GetBlobByKey { key: key.to_owned() }).await?;
        Ok((!blob.empty && !blob.data.is_empty()).then_some(blob.data))
    }

    /// A blob by its key, by the protocol `/blob`; `None` where the peer has none.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn blob(&self, key: &str) -> Result<Option<Bytes>, Error> {
        self.node.blob(self.peer, key).await
    }
}
