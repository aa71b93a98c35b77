//! A worker's refusals, with pRuntime's texts.

use sp_core::H256;

/// A refusal. Its text is exactly a real pRuntime's, because bridges match it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The last relay header of a batch came without a justification.
    #[error("MissingJustification")]
    MissingJustification,
    /// The light client does not accept the relay headers.
    #[error("HeaderValidateFailed({0})")]
    HeaderValidateFailed(String),
    /// A batch or a block does not start at the expected number.
    #[error("BlockNumberMismatch")]
    BlockNumberMismatch,
    /// A header does not follow the one before it.
    #[error("HeaderHashMismatch")]
    HeaderHashMismatch,
    /// Parachain headers came before a relay header that names them.
    #[error("RelaychainHeaderNotSynced")]
    RelaychainHeaderNotSynced,
    /// The read proof does not prove the last parachain header.
    #[error("StorageProofFailed({0})")]
    StorageProofFailed(String),
    /// A block came before its header.
    #[error("NoStateRoot")]
    NoStateRoot,
    /// A block's storage changes do not yield its header's state root.
    #[error("StateRootMismatch block={block:?} expected={expected:?} actual={actual:?}")]
    StateRootMismatch {
        /// The block.
        block: u32,
        /// The header's root.
        expected: H256,
        /// The root that the changes yield.
        actual: H256,
    },
    /// Any other application error.
    #[error("{0}")]
    App(String),
    /// A request's content is not valid SCALE.
    #[error("DecodeError({0})")]
    Decode(String),
    /// The method does not exist.
    #[error("Method Not Found")]
    NotFound,
    /// The process aborts without an answer.
    #[error("the worker aborted: {0}")]
    Abort(String),
}

impl Refusal {
    /// The refusal while a dispatch is running on a copy of the state.
    pub(crate) fn busy() -> Self {
        Self::App("RCU in progress, please try the request again later".into())
    }

    /// The refusal before `InitRuntime`.
    pub(crate) fn uninitialized() -> Self {
        Self::App("Runtime not initialized".into())
    }

    /// The HTTP status of the refusal's answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Decode(_) => 400,
            Self::NotFound => 404,
            _ => 500,
        }
    }
}
