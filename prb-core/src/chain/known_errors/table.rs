//! Table of the chain's errors for the calls of a bridge.

use super::{
    ErrorClass::{AwaitState, AwaitTime, Retry, TellOperator},
    KnownError,
};

/// A row: the error's name, its class, the cause and, below, the remedy.
macro_rules! known_errors {
    ($($name:ident $class:ident $cause:literal $remedy:literal;)*) => {
        /// All known errors, by name without the pallet: errors move between pallets with runtime upgrades.
        pub const KNOWN_ERRORS: &[KnownError] = &[
            $(KnownError { name: stringify!($name), class: $class, cause: $cause, remedy: $remedy },)*
        ];
    };
}

known_errors! {
    // Registration.
    WorkerNotRegistered AwaitState
        "the chain does not know the worker"
        "no action needed: the worker is registered first; if that fails, see its message";
    BenchmarkMissing AwaitState
        "the worker has no benchmark score yet"
        "no action needed: wait for the benchmark to end; if no score comes, check that the worker is in sync";
    BenchmarkTooLow TellOperator
        "the worker's score is below the chain's minimum"
        "use a faster machine, or free the machine of other load and register the worker again";
    WorkerReregisterNeeded AwaitState
        "the worker's registration is older than its session"
        "no action needed: the worker is registered again before it starts";
    WorkerNotFound AwaitState
        "the registry does not know the worker"
        "no action needed: the worker is registered first";
    InvalidRuntimeInfo TellOperator
        "the registration that pRuntime made does not fit this chain"
        "update pRuntime to a version made for this chain";
    InvalidRuntimeInfoHash TellOperator
        "the attestation report is for another registration"
        "restart pRuntime (command kick) so that it makes a new report";
    NoneAttestationDisabled TellOperator
        "the chain accepts no worker without attestation"
        "set up SGX attestation on the worker (IAS or DCAP)";
    IASAttestationDisabled TellOperator
        "the chain no longer accepts attestation by IAS"
        "set up DCAP attestation on the worker";
    UnsupportedAttestationType TellOperator
        "the chain cannot check this kind of attestation report, such as a DCAP report without collateral"
        "set the list of PCCS addresses, or use another kind of attestation";
    ParachainIdMismatch TellOperator
        "the worker was initialised for another parachain"
        "check that worker and bridge are for the same network, then clear the worker's data";
    GenesisBlockHashRejected TellOperator
        "the worker was initialised for another chain's genesis"
        "check that worker and bridge are for the same network, then clear the worker's data";
    GenesisBlockHashNotFound TellOperator
        "the chain does not list the genesis that the worker was initialised with"
        "check that worker and bridge are for the same network";
    PRuntimeRejected TellOperator
        "the chain does not allow this version of pRuntime"
        "update pRuntime to a version on the chain's list";
    PRuntimeNotFound TellOperator
        "the chain does not list this version of pRuntime"
        "update pRuntime to a version on the chain's list";
    InvalidConsensusVersion TellOperator
        "pRuntime is too old for the chain's consensus version"
        "update pRuntime";
    OutdatedIASReport Retry
        "the attestation report is too old"
        "no action needed: a new report is made; if it persists, check the clock of the worker's machine";
    BadIASReport TellOperator
        "the attestation report cannot be read"
        "check the worker's attestation settings and its log";
    InvalidReport TellOperator
        "the attestation report is not valid"
        "check the worker's attestation settings and its log";
    InvalidIASSigningCert TellOperator
        "the attestation report is not signed by the attestation service"
        "check the worker's attestation settings and its log";
    InvalidQuoteStatus TellOperator
        "the attestation service does not trust the machine"
        "update its BIOS and microcode, then register the worker again";
    UnknownQuoteBodyFormat TellOperator
        "the attestation report has a format that the chain does not know"
        "update pRuntime";
    InvalidBenchReport TellOperator
        "the worker's benchmark report is not valid"
        "restart pRuntime (command kick), then register the worker again";
    InvalidPubKey TellOperator
        "the registration names another key than the report"
        "restart pRuntime (command kick), then register the worker again";
    InvalidSender TellOperator
        "the registry does not accept this sender"
        "check that the worker's key is the registered one";
    CannotHandleUnknownMessage TellOperator
        "the chain cannot read the message or registration"
        "update the bridge and pRuntime to versions made for this chain";

    // Pools and their workers.
    UnauthorizedOperator TellOperator
        "the worker is registered for another operator than the sender"
        "set the pool's operator to the registered one, or register the worker again with this operator";
    UnauthorizedPoolOwner TellOperator
        "the account that sends does not own the pool"
        "set the key of the pool's owner, or set the owner as the proxied account";
    PoolDoesNotExist TellOperator
        "the chain has no such pool"
        "check the pool's number";
    PoolTypeNotMatch TellOperator
        "the pool is a vault, which takes no workers"
        "use the number of a stake pool";
    WorkerExists AwaitState
        "the worker is in the pool already"
        "no action needed: the chain is read again";
    WorkersExceedLimit AwaitState
        "the pool has as many workers as the chain allows"
        "remove workers from the pool, or use another pool";
    FailedToBindSessionAndWorker AwaitState
        "the worker or its session is still bound"
        "wait until the chain has released the worker from its earlier pool";
    DuplicateBoundSession AwaitState
        "the session is bound to a worker already"
        "wait until the chain has released the worker from its earlier pool";
    WorkerDoesNotExist AwaitState
        "the worker is not in the pool"
        "no action needed: the worker is added first; if that fails, see its message";
    WorkerInAnotherPool TellOperator
        "the worker is in another pool"
        "move the worker to that pool in the settings, or remove it from that pool on chain";
    WorkerNotBound AwaitState
        "the worker has no session"
        "no action needed: the worker is added to the pool first";
    SessionNotFound AwaitState
        "the worker has no session"
        "no action needed: the chain is read again; if it persists, remove the worker from the pool and add it again";
    SessionDoesNotExist AwaitState
        "the worker has no session"
        "no action needed: the chain is read again; if it persists, the pool's owner must check the worker on chain";

    // Computing and stake.
    InsufficientFreeStake AwaitState
        "the pool has less free stake than the worker's stake"
        "contribute to the pool, free other stake, or lower the worker's stake";
    InsufficientStake TellOperator
        "the worker's stake is below the minimum for its score"
        "raise the worker's stake";
    TooMuchStake TellOperator
        "the worker's stake is above the maximum for its score"
        "lower the worker's stake";
    CannotRestartWithLessStake TellOperator
        "the new stake does not exceed the current one"
        "set a larger stake, or stop the worker and wait for the cool-down to lower it";
    InternalErrorCannotStartWithExistingStake TellOperator
        "the session holds stake although it does not compute"
        "reclaim the worker's stake first";
    InternalErrorBadTokenomicParameters TellOperator
        "the chain's own stake rules cannot be used"
        "ask the operators of the chain";
    WorkerNotReady AwaitState
        "the worker's session is in use or cooling down"
        "no action needed: the chain is read again; a cool-down must end first";
    WorkerIsNotReady AwaitState
        "the worker computes or cools down"
        "stop the worker and wait for the cool-down to end";
    WorkerNotComputing AwaitState
        "the worker does not compute"
        "no action needed: the chain is read again";
    WorkerAlreadyStopped AwaitState
        "the worker is stopped already"
        "no action needed: the chain is read again";
    WorkerIsNotCoolingDown AwaitState
        "the worker is not cooling down"
        "no action needed: the chain is read again";
    CoolDownNotReady AwaitTime
        "the cool-down is not over, or the worker is not cooling down"
        "wait for the end of the cool-down";
    StillInCoolDown AwaitTime
        "the cool-down is not over"
        "wait for the end of the cool-down";
    WithdrawQueueNotEmpty AwaitState
        "withdrawals wait for the pool's free stake"
        "contribute to the pool or stop workers until the withdrawals are served";

    // Messages and endpoints.
    BadSender TellOperator
        "the chain does not accept messages of this sender"
        "check that the worker is the one that is registered";
    BadDestination TellOperator
        "the message has no valid destination"
        "update pRuntime to a version made for this chain";
    BadSequence Retry
        "another message was expected, or this one is on chain already"
        "no action needed: the next expected message is sent";
    InvalidSignature TellOperator
        "the signature is not the worker's"
        "check that the worker kept its key, and that pRuntime fits this chain";
    InvalidSignatureLength TellOperator
        "the signature is malformed"
        "update pRuntime to a version made for this chain";
    MalformedSignature TellOperator
        "the signature is malformed"
        "update pRuntime to a version made for this chain";
    InvalidInput TellOperator
        "the announced endpoints cannot be read"
        "check the endpoints set for the worker";
    InvalidEndpointSigningTime Retry
        "the endpoints were signed too long ago, or in the future"
        "no action needed: they are signed again; if it persists, check the clock of the worker's machine";

    // Accounts and proxies.
    NotProxy TellOperator
        "the operator may not act for the pool's account"
        "add the operator as a proxy of that account, or correct the pool's settings";
    Unproxyable TellOperator
        "the operator's proxy type does not allow this call"
        "give the operator a proxy type that allows it";
    NoPermission TellOperator
        "the operator's proxy type does not allow this call"
        "give the operator a proxy type that allows it";
    CallFiltered TellOperator
        "the chain or the proxy type does not allow this call"
        "give the operator a proxy type that allows it; if it has one, the chain has disabled the call";
    BadOrigin TellOperator
        "the account may not make this call"
        "check the pool's operator and proxied account";
    RootNotAllowed TellOperator
        "the account may not make this call"
        "check the pool's operator and proxied account";
    CannotLookup TellOperator
        "the chain does not know an account that the call names"
        "check the pool's proxied account";
    FundsUnavailable AwaitState
        "the operator's account has too little balance"
        "send funds to the operator's account";
    InsufficientBalance AwaitState
        "the operator's account has too little balance"
        "send funds to the operator's account";
    BelowMinimum AwaitState
        "the operator's account would fall below the chain's minimum"
        "send funds to the operator's account";
    ExistentialDeposit AwaitState
        "the operator's account would fall below the chain's minimum"
        "send funds to the operator's account";
    KeepAlive AwaitState
        "the operator's account would fall below the chain's minimum"
        "send funds to the operator's account";
    OnlyProvider AwaitState
        "the operator's account would fall below the chain's minimum"
        "send funds to the operator's account";
    NotExpendable AwaitState
        "the operator's account would fall below the chain's minimum"
        "send funds to the operator's account";
    Frozen AwaitState
        "the account's balance is frozen"
        "unlock the balance, or send funds to the account";
    LiquidityRestrictions AwaitState
        "the account's balance is locked"
        "unlock the balance, or send funds to the account";
    VestingBalance AwaitState
        "the account's balance is vesting"
        "send funds to the account";
    CannotCreate AwaitState
        "an account that the call needs cannot be created"
        "send funds to the operator's account";
    CannotCreateHold AwaitState
        "the account's balance cannot be held"
        "send funds to the operator's account";
    Blocked TellOperator
        "the account may not receive or send"
        "use another account";
    UnknownAsset TellOperator
        "the chain does not know the asset"
        "ask the operators of the chain";
    Unsupported TellOperator
        "the chain does not support the operation"
        "ask the operators of the chain";
    ConsumerRemaining TellOperator
        "the account is still in use on chain"
        "ask the operators of the chain";
    NoProviders AwaitState
        "the account does not exist on chain"
        "send funds to the account";
    TooManyConsumers TellOperator
        "the account has too many references on chain"
        "use another operator account";

    // The runtime itself.
    TooManyCalls Retry
        "the batch has more calls than the chain accepts"
        "no action needed: a smaller batch is sent";
    LimitReached Retry
        "the calls are nested too deeply"
        "no action needed: they are sent again";
    NoLayer Retry
        "the runtime could not roll back part of the call"
        "no action needed: it is sent again";
    Exhausted Retry
        "the block had no capacity for the call"
        "no action needed: it is sent again";
    Unavailable Retry
        "the chain cannot do this now"
        "no action needed: it is sent again";
    Underflow TellOperator
        "a number in the call is too small"
        "check the worker's stake";
    Overflow TellOperator
        "a number in the call is too large"
        "check the worker's stake";
    DivisionByZero TellOperator
        "the chain's own rules cannot be used"
        "ask the operators of the chain";
    Corruption TellOperator
        "the chain's state is damaged"
        "ask the operators of the chain";
    NotMigrationRoot TellOperator
        "the call is reserved for the chain's migrations"
        "ask the operators of the chain";
    Other TellOperator
        "the chain gives no reason"
        "look at the transaction in a block explorer";

    // Message senders other than workers.
    UnknownCluster AwaitState
        "the chain does not know the cluster that sent the message"
        "no action needed: its messages are relayed once the chain knows it";
    UnknownContract AwaitState
        "the chain does not know the contract that sent the message"
        "no action needed: its messages are relayed once the chain knows it";
    MasterKeyUninitialized AwaitState
        "the chain has no gatekeepers' key yet"
        "no action needed: gatekeepers' messages are relayed once the chain has it";
    // Attestation and sessions.
    InvalidDCAPQuote TellOperator
        "the worker's DCAP quote or its collateral does not verify on chain"
        "check that the PCCS serves current collateral, and update the machine's firmware and pRuntime";
    SessionNotBound AwaitState
        "the session is bound to no worker"
        "no action needed: the worker is added to its pool first";
    DuplicateBoundWorker AwaitState
        "the worker is bound to another session"
        "wait until the other session's stake is free, or remove the worker from the other pool";
    FeatureNotEnabled TellOperator
        "the chain has disabled this call"
        "wait until the chain's governance enables it";
    NotImplemented TellOperator
        "the chain does not implement this call"
        "update the bridge to a version made for this chain";
    VaultIsLocked AwaitState
        "the vault is locked until its withdrawals are paid"
        "wait, or pay the vault's withdrawals";
}
