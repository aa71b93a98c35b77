//! Classification of the chain's errors: the cause, the remedy for operators, and when a refused call may be
//! sent again.

mod table;

pub use table::KNOWN_ERRORS;

/// When a call that the chain refused may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Once the on-chain state that caused the refusal has changed: balances, stakes, sessions, pools.
    AwaitState,
    /// Once enough time has passed on chain.
    AwaitTime,
    /// At once, rebuilt from the current on-chain state.
    Retry,
    /// Once the operator has changed something: settings, accounts, the worker's software.
    TellOperator,
}

/// A known error of the chain, with its remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownError {
    /// The error's name, without its pallet.
    pub name: &'static str,
    /// When the call may be sent again.
    pub class: ErrorClass,
    /// What happened, as a clause: 'the pool has less free stake than the worker's stake'.
    pub cause: &'static str,
    /// The remedy for the operator, as a clause.
    pub remedy: &'static str,
}

/// Used for every error that is not in [`KNOWN_ERRORS`].
const UNKNOWN: KnownError = KnownError {
    name: "unknown",
    class: ErrorClass::TellOperator,
    cause: "the chain refused the call with an error that the bridge does not know",
    remedy: "look up the error in the chain's documentation, and update the bridge",
};

/// Looks up an error by its name (as in [`DispatchError`](super::DispatchError)), with or without the pallet
/// prefix. Unknown errors are classified as [`ErrorClass::TellOperator`].
///
/// ```
/// use prb_core::chain::{ErrorClass, known_error};
///
/// let known = known_error("PhalaStakePoolv2::InsufficientFreeStake");
/// assert_eq!(known.class, ErrorClass::AwaitState);
/// assert_eq!(known_error("InsufficientFreeStake"), known);
/// assert_eq!(known_error("Pallet::Novelty").class, ErrorClass::TellOperator);
/// ```
pub fn known_error(name: &str) -> &'static KnownError {
    // Runtime upgrades move errors between pallets, for example from `PhalaStakePool` to `PhalaStakePoolv2`.
    let bare = name.rsplit("::").next().unwrap_or(name);
    KNOWN_ERRORS.iter().find(|known| known.name == bare).unwrap_or(&UNKNOWN)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Errors of the calls that a bridge makes, as the pallets declare them.
    const OF_THE_PALLETS: &str = "
        WorkerNotRegistered UnauthorizedOperator BenchmarkMissing PoolDoesNotExist PoolTypeNotMatch
        UnauthorizedPoolOwner WorkerExists WorkersExceedLimit FailedToBindSessionAndWorker
        InsufficientFreeStake WorkerDoesNotExist SessionNotFound WorkerNotReady
        InternalErrorCannotStartWithExistingStake BenchmarkTooLow InsufficientStake TooMuchStake
        WorkerNotComputing WorkerAlreadyStopped WithdrawQueueNotEmpty CannotRestartWithLessStake
        WorkerInAnotherPool SessionDoesNotExist WorkerIsNotReady CoolDownNotReady BadSender BadSequence
        InvalidSignature InvalidRuntimeInfo NoneAttestationDisabled ParachainIdMismatch
        GenesisBlockHashRejected PRuntimeRejected OutdatedIASReport UnsupportedAttestationType
        InvalidConsensusVersion InvalidInput MalformedSignature InvalidEndpointSigningTime
        WorkerReregisterNeeded IASAttestationDisabled";

    /// Errors of no pallet, and of the pallets that wrap our calls.
    const OF_THE_RUNTIME: &str = "
        Other CannotLookup BadOrigin ConsumerRemaining NoProviders TooManyConsumers Token::FundsUnavailable
        Token::OnlyProvider Token::BelowMinimum Token::CannotCreate Token::UnknownAsset Token::Frozen
        Token::Unsupported Token::CannotCreateHold Token::NotExpendable Token::Blocked Arithmetic::Underflow
        Arithmetic::Overflow Arithmetic::DivisionByZero Transactional::LimitReached Transactional::NoLayer
        Exhausted Corruption Unavailable RootNotAllowed Proxy::NotProxy Proxy::Unproxyable
        Proxy::NoPermission System::CallFiltered Utility::TooManyCalls Balances::InsufficientBalance
        Balances::LiquidityRestrictions Balances::ExistentialDeposit Balances::VestingBalance";

    /// Errors that only older runtimes and [`MemoryChain`](crate::chain::memory::MemoryChain) have.
    const OF_OTHERS: &str = "
        PhalaRegistry::CannotHandleUnknownMessage PhalaRegistry::InvalidPubKey WorkerNotBound
        PhalaComputation::WorkerIsNotCoolingDown PhalaComputation::StillInCoolDown";

    #[test]
    fn every_error_of_a_bridges_calls_is_known() {
        let all = [OF_THE_PALLETS, OF_THE_RUNTIME, OF_OTHERS];
        for name in all.iter().flat_map(|names| names.split_whitespace()) {
            assert!(name.ends_with(known_error(name).name), "{name} is not in the table");
        }
    }

    #[test]
    fn each_error_is_explained_once() {
        let mut seen = HashSet::new();
        for known in KNOWN_ERRORS {
            assert!(seen.insert(known.name), "{} is twice in the table", known.name);
            for text in [known.cause, known.remedy] {
                assert!(text.len() > 10 && !text.ends_with('.'), "{}: {text:?}", known.name);
            }
        }
    }

    #[test]
    fn a_name_is_known_with_and_without_its_pallet() {
        assert_eq!(known_error("PhalaComputation::CoolDownNotReady").class, ErrorClass::AwaitTime);
        assert_eq!(known_error("CoolDownNotReady"), known_error("Renamed::CoolDownNotReady"));
        assert_eq!(known_error("PhalaMq::BadSequence").class, ErrorClass::Retry);
        for unknown in ["", "::", "Module(7)::Error(3)", "NoSuchError"] {
            assert_eq!(known_error(unknown).class, ErrorClass::TellOperator, "{unknown:?}");
        }
    }
}
