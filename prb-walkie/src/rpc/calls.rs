//! The service's methods, each as a type that knows its messages.

use prost::Message;

use crate::proto::{
    AuthRequest, AuthResponse, Empty, SystemInfo, WorkerStateUpdate, data_provider as dp, detail,
    lifecycle as lm, provider_detail,
};

/// A method and its messages.
pub trait Call: Copy + Send + Sync + 'static {
    /// What is asked.
    type Request: Message + Default + 'static;
    /// What is answered.
    type Response: Message + Default + 'static;
    /// Which it is.
    const METHOD: Method;
}

/// Most bytes of an answer that carries no list and no blob.
const SMALL_ANSWER_BYTES: usize = 64 * 1024;

macro_rules! service {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty, $kind:ident;)*) => {
        /// A method of the service `WalkieRpc`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Method { $($(#[$doc])* $name),* }

        /// `GetDataProviderInfo` with the fields that are not the original's: who does not know them answers without.
#[derive(Clone, Copy, Debug)]
pub struct GetFullInfo;

impl Call for GetFullInfo {
    type Request = Empty;
    type Response = provider_detail::FullInfo;
    const METHOD: Method = Method::GetDataProviderInfo;
}

impl Method {
            /// Every method.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// The method of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }

            const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind),* }
            }
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Call for $name {
                type Request = $request;
                type Response = $response;
                const METHOD: Method = Method::$name;
            }
        )*
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A small answer for everybody.
    Small,
    /// A blob for everybody.
    Blob,
    /// Management, a question.
    Query,
    /// Management, a change.
    Change,
}

service! {
    /// Who are you?
    Hello(SystemInfo) -> SystemInfo, Small;
    /// Lets the caller in: see [`auth`](super::auth).
    Auth(AuthRequest) -> AuthResponse, Small;
    /// How far is a data provider?
    GetDataProviderInfo(Empty) -> dp::Info, Small;
    /// A blob by its key.
    GetBlobByKey(dp::GetBlobByKey) -> dp::RawBlob, Blob;
    /// Asks an external data provider for a block.
    WantBlob(dp::WantBlob) -> dp::BlobMeta, Small;
    /// Fetches that block.
    GetBlobWithToken(dp::GetBlob) -> dp::Blob, Blob;
    /// All pools.
    ListPool(Empty) -> lm::PoolList, Query;
    /// Makes pools.
    CreatePool(lm::CreatePool) -> lm::PoolList, Change;
    /// Changes or deletes pools.
    UpdatePool(lm::UpdatePool) -> lm::PoolList, Change;
    /// All workers.
    ListWorker(Empty) -> lm::WorkerList, Query;
    /// Makes workers.
    CreateWorker(lm::CreateWorker) -> lm::WorkerList, Change;
    /// Changes or deletes workers.
    UpdateWorker(lm::UpdateWorker) -> lm::WorkerList, Change;
    /// Starts workers again.
    RestartWorker(lm::UuidQueryRequest) -> WorkerStateUpdate, Change;
    /// Attests workers anew and starts them again.
    RefreshRaAndRestartWorker(lm::UuidQueryRequest) -> WorkerStateUpdate, Change;
    /// Stops workers' pRuntime.
    KickWorker(lm::UuidQueryRequest) -> WorkerStateUpdate, Change;
    /// How workers are; all of them where no id is given.
    GetWorkerStatus(lm::UuidQueryRequest) -> WorkerStateUpdate, Query;
    /// Gives workers any command, or asks what it would do. Not the original's.
    CommandWorker(detail::CommandRequest) -> detail::CommandUpdate, Change;
}

/// [`GetWorkerStatus`] with the fields that are not the original's: who does not know them answers without.
#[derive(Clone, Copy, Debug)]
pub struct GetWorkerDetail;

impl Call for GetWorkerDetail {
    type Request = detail::StatusQuery;
    type Response = detail::StatusUpdate;
    const METHOD: Method = Method::GetWorkerStatus;
}

impl Method {
    /// Whether it manages pools and workers: answered only to callers that have shown that they may.
    pub const fn is_management(self) -> bool {
        matches!(self.kind(), Kind::Query | Kind::Change)
    }

    /// Whether asking twice does no more than asking once.
    pub const fn is_repeatable(self) -> bool {
        !matches!(self.kind(), Kind::Change) && !matches!(self, Self::Auth | Self::WantBlob)
    }

    /// Whether its request may hold a secret.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::CreatePool | Self::UpdatePool | Self::Auth)
    }

    /// Most bytes of its answer that a caller takes, where it takes `limit` at all.
    pub const fn answer_limit_bytes(self, limit: usize) -> usize {
        match self.kind() {
            Kind::Small if limit > SMALL_ANSWER_BYTES => SMALL_ANSWER_BYTES,
            _ => limit,
        }
    }
}
