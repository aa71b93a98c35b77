//! Errors of building or driving a devnet.

/// Why a devnet cannot be built or driven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The genesis state could not be built.
    #[error("genesis: {0}")]
    Genesis(String),
    /// The runtime failed.
    #[error("runtime call {method}: {reason}")]
    Runtime {
        /// The method called.
        method: String,
        /// Its error.
        reason: String,
    },
    /// The state database failed.
    #[error("state: {0}")]
    State(String),
    /// The block does not exist.
    #[error("unknown block {0}")]
    UnknownBlock(String),
    /// No finality proof is available.
    #[error("finality: {0}")]
    Finality(String),
    /// The transaction pool refused a transaction.
    #[error("transaction pool: {0}")]
    Pool(#[from] crate::node::pool::Error),
    /// The RPC server could not be started.
    #[error("the RPC server cannot be started")]
    Rpc(#[source] std::io::Error),
    /// A task of the devnet panicked.
    #[error("a task of the devnet failed")]
    Task(#[from] tokio::task::JoinError),
}
