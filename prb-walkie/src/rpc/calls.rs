//! The service's methods, each as a type with its messages.

use prost::Message;

use crate::proto::{
    AuthRequest, AuthResponse, Empty, SystemInfo, WorkerStateUpdate, data_provider as dp, detail,
    lifecycle as lm, provider_detail,
};

/// A method and its messages.
pub trait Call: Copy + Send + Sync + 'static {
    /// The request message.
    type Request: Message + Default + 'static;
    /// The response message.
    type Response: Message + Default + 'static;
    /// The method.
    const METHOD: Method;
}

/// The largest answer without a list or a blob, in bytes.
const SMALL_ANSWER_BYTES: usize = 64 * 1024;

macro_rules! service {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty, $kind:ident;)*) => {
        /// A method of the service `WalkieRpc`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Method { $($(#[$doc])* $name),* }

        impl Method {
            /// All methods.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Returns the method of that name.
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
    /// A small answer, open to everybody.
    Small,
    /// A blob, open to everybody.
    Blob,
    /// A management query.
    Query,
    /// A management change.
    Change,
}

service! {
    /// Introduces the caller and returns the called peer's introduction.
    Hello(SystemInfo) -> SystemInfo, Small;
    /// Authorises the caller: see [`auth`](super::auth).
    Auth(AuthRequest) -> AuthResponse, Small;
    /// Returns a data provider's progress.
    GetDataProviderInfo(Empty) -> dp::Info, Small;
    /// Returns a blob by its key.
    GetBlobByKey(dp::GetBlobByKey) -> dp::RawBlob, Blob;
    /// Asks an external data provider for a block.
    WantBlob(dp::WantBlob) -> dp::BlobMeta, Small;
    /// Fetches that block.
    GetBlobWithToken(dp::GetBlob) -> dp::Blob, Blob;
    /// Lists all pools.
    ListPool(Empty) -> lm::PoolList, Query;
    /// Creates pools.
    CreatePool(lm::CreatePool) -> lm::PoolList, Change;
    /// Changes or deletes pools.
    UpdatePool(lm::UpdatePool) -> lm::PoolList, Change;
    /// Lists all workers.
    ListWorker(Empty) -> lm::WorkerList, Query;
    /// Creates workers.
    CreateWorker(lm::CreateWorker) -> lm::WorkerList, Change;
    /// Changes or deletes workers.
    UpdateWorker(lm::UpdateWorker) -> lm::WorkerList, Change;
    /// Restarts workers.
    RestartWorker(lm::UuidQueryRequest) -> WorkerStateUpdate, Change;
    /// Renews workers' attestation and restarts them.
    RefreshRaAndRestartWorker(lm::UuidQueryRequest) -> WorkerStateUpdate, Change;
    /// Stops workers' pRuntime.
    KickWorker(lm::UuidQueryRequest) -> WorkerStateUpdate, Change;
    /// Returns workers' states; those of all workers if no id is given.
    GetWorkerStatus(lm::UuidQueryRequest) -> WorkerStateUpdate, Query;
    /// Gives workers any command, or previews its effect. Not in the original.
    CommandWorker(detail::CommandRequest) -> detail::CommandUpdate, Change;
}

/// [`GetDataProviderInfo`] with extension fields; an original answers without them.
#[derive(Clone, Copy, Debug)]
pub struct GetFullInfo;

impl Call for GetFullInfo {
    type Request = Empty;
    type Response = provider_detail::FullInfo;
    const METHOD: Method = Method::GetDataProviderInfo;
}

/// [`GetWorkerStatus`] with extension fields; an original answers without them.
#[derive(Clone, Copy, Debug)]
pub struct GetWorkerDetail;

impl Call for GetWorkerDetail {
    type Request = detail::StatusQuery;
    type Response = detail::StatusUpdate;
    const METHOD: Method = Method::GetWorkerStatus;
}

impl Method {
    /// Whether it manages pools and workers, which requires authorisation.
    pub const fn is_management(self) -> bool {
        matches!(self.kind(), Kind::Query | Kind::Change)
    }

    /// Whether repeating it has no further effect.
    pub const fn is_repeatable(self) -> bool {
        !matches!(self.kind(), Kind::Change) && !matches!(self, Self::Auth | Self::WantBlob)
    }

    /// Whether its request may contain a secret.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::CreatePool | Self::UpdatePool | Self::Auth)
    }

    /// The largest answer that a caller accepts, given its general limit `limit`.
    pub const fn answer_limit_bytes(self, limit: usize) -> usize {
        match self.kind() {
            Kind::Small if limit > SMALL_ANSWER_BYTES => SMALL_ANSWER_BYTES,
            _ => limit,
        }
    }
}
