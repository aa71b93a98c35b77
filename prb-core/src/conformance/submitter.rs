//! Conformance suite of [`ChainSubmitter`].
//!
//! A backend implements [`TestChain`]: a chain that the suite drives block by block. Checks wait for the
//! submitter's behaviour, so they run under paused time as well as against a chain of real nodes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    chain::{BatchOutcome, Call, CallBatch, ChainSubmitter, Effect, SubmitError, SubmitProgress},
    primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
    signer::{Error, SIGNATURE_BYTES, Signer},
    wire::{Message, MessageOrigin, SignedMessage},
};

/// Time between two blocks while a check waits.
const TICK: Duration = Duration::from_millis(20);
/// How long to wait for effects on a chain that produces no block.
const SETTLE: Duration = Duration::from_millis(300);
/// A check that has not ended by then never will.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A chain for the suite.
pub trait TestChain: Send + Sync {
    /// Creates a submitter without knowledge of earlier transactions, like that of a new process.
    fn submitter(&self) -> Arc<dyn ChainSubmitter>;
    /// Signs for an operator that can pay.
    fn signer(&self) -> Arc<dyn Signer>;
    /// Claims to sign for the same operator, but uses another key.
    fn forged(&self) -> Arc<dyn Signer>;
    /// Signs for an account that cannot pay for a single call.
    fn poor(&self) -> Arc<dyn Signer>;
    /// The `n`th of several calls that the chain executes, each for a different worker.
    fn call(&self, n: u32) -> Call;
    /// Produces the next block, and finalises blocks with this chain's delay.
    fn make_block(&self);
    /// The newest final block.
    fn finalised(&self) -> ParaNumber;
}

/// Runs all checks.
///
/// ```
/// use prb_core::conformance::submitter::{self, TestChain};
///
/// /// `Own` is a chain that the suite can drive.
/// async fn conforms<Own: TestChain>(chain: &Own) {
///     submitter::all(chain).await;
/// }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<G: TestChain>(chain: &G) {
    each_call_has_its_outcome_in_order(chain).await;
    effects_are_reported_before_and_after(chain).await;
    messages_ahead_of_a_missing_one_are_out_of_order(chain).await;
    outcomes_are_final(chain).await;
    a_cancelled_submission_is_waited_for(chain).await;
    forged_signatures_are_refused(chain).await;
    an_unavailable_signer_sends_nothing(chain).await;
    an_account_that_cannot_pay_is_reported(chain).await;
    a_full_progress_channel_loses_no_outcome(chain).await;
}

/// A call that every chain refuses: its worker is not registered.
fn refused_call() -> (Call, &'static str) {
    let worker = WorkerKey([0xee; 32]);
    (Call::AddWorker { pool: PoolId(1), worker }, "PhalaStakePoolv2::WorkerNotRegistered")
}

async fn ticking<G: TestChain, T>(chain: &G, what: &str, work: impl Future<Output = T>) -> T {
    let blocks = async {
        loop {
            sleep(TICK).await;
            chain.make_block();
        }
    };
    tokio::select! {
        done = timeout(TIMEOUT, work) => done.unwrap_or_else(|_| panic!("{what} took more than {TIMEOUT:?}")),
        () = blocks => unreachable!("blocks are made forever"),
    }
}

async fn send<G: TestChain>(
    chain: &G,
    submitter: &dyn ChainSubmitter,
    signer: Arc<dyn Signer>,
    calls: Vec<Call>,
) -> Result<BatchOutcome, SubmitError> {
    let (progress, _reports) = mpsc::channel(8);
    let batch = CallBatch::new(signer, calls);
    ticking(chain, "a submission", submitter.submit(&batch, progress)).await
}

/// Sends a call that must succeed.
async fn done<G: TestChain>(chain: &G, submitter: &dyn ChainSubmitter, n: u32) -> BatchOutcome {
    let outcome = send(chain, submitter, chain.signer(), vec![chain.call(n)]).await.unwrap();
    assert_eq!(outcome.calls, [Ok(())], "call {n}");
    outcome
}

async fn effects<G: TestChain>(
    chain: &G,
    submitter: &dyn ChainSubmitter,
    calls: &[Call],
) -> (Vec<Effect>, ParaNumber) {
    let reading = submitter.effects(chain.signer().account(), calls);
    let found = ticking(chain, "reading effects", reading).await.unwrap();
    (found.calls, found.block)
}

async fn each_call_has_its_outcome_in_order<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    // Refused calls between accepted ones: `force_batch` must not stop at the first failure.
    let (refused, name) = refused_call();
    let calls = vec![chain.call(1), refused.clone(), chain.call(2), refused];
    let (progress, mut reports) = mpsc::channel(8);
    let batch = CallBatch::new(chain.signer(), calls);
    let outcome = ticking(chain, "a submission", submitter.submit(&batch, progress)).await.unwrap();
    let names: Vec<_> =
        outcome.calls.iter().map(|call| call.as_ref().map_or_else(|e| e.name.as_str(), |()| "")).collect();
    assert_eq!(names, ["", name, "", name], "one result a call, in order, failures by name");
    let extrinsic = outcome.extrinsic;
    assert_eq!(
        reports.recv().await,
        Some(SubmitProgress::Submitted { extrinsic }),
        "the first progress is the submission"
    );
    assert_eq!(
        reports.recv().await,
        Some(SubmitProgress::InBlock { block: outcome.block }),
        "the second progress is the inclusion"
    );
    assert_eq!(reports.recv().await, None, "the channel is closed after the outcome");
}

async fn effects_are_reported_before_and_after<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    let calls = [chain.call(4), chain.call(3)];
    assert_eq!(
        effects(chain, &*submitter, &calls).await.0,
        [Effect::Missing, Effect::Missing],
        "effects before anything was sent"
    );
    let outcome = done(chain, &*submitter, 3).await;
    // A new submitter as well: effects are read from the chain, not from memory.
    for submitter in [submitter, chain.submitter()] {
        let (found, block) = effects(chain, &*submitter, &calls).await;
        assert_eq!(found, [Effect::Missing, Effect::Present], "in the calls' order");
        assert!(block >= outcome.number, "effects read at block {block}, before {}", outcome.number);
    }
    assert_eq!(effects(chain, &*chain.submitter(), &[]).await.0, [], "effects of no calls");
}

/// The chain accepts a sender's messages only in sequence; it has none of these senders.
async fn messages_ahead_of_a_missing_one_are_out_of_order<G: TestChain>(chain: &G) {
    let message = |sender: u8, sequence| {
        let sender = MessageOrigin::Worker(WorkerKey([sender; 32]));
        let message = Message { sender, destination: vec![], payload: vec![] };
        Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
    };
    let calls = [message(0xe1, 0), message(0xe2, 1), message(0xe1, 1), message(0xe1, 3), message(0xe1, 2)];
    let expected =
        [Effect::Missing, Effect::OutOfOrder, Effect::Missing, Effect::OutOfOrder, Effect::Missing];
    assert_eq!(
        effects(chain, &*chain.submitter(), &calls).await.0,
        expected,
        "the effects of the calls, in their order"
    );
}

/// Block by block: a transaction in a block that is not final has no outcome yet.
async fn outcomes_are_final<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    let (progress, mut reports) = mpsc::channel(8);
    let batch = CallBatch::new(chain.signer(), vec![chain.call(4)]);
    let submitted = submitter.submit(&batch, progress);
    tokio::pin!(submitted);
    let mut seen_in_block = None;
    let outcome = loop {
        if let Ok(result) = timeout(SETTLE, &mut submitted).await {
            break result.unwrap();
        }
        while let Ok(report) = reports.try_recv() {
            if let SubmitProgress::InBlock { block } = report {
                seen_in_block = Some((block, chain.finalised()));
            }
        }
        chain.make_block();
    };
    assert!(outcome.number <= chain.finalised(), "an outcome of a block that is not final");
    if let Some((block, finalised)) = seen_in_block {
        assert!(block != outcome.block || finalised < outcome.number, "its outcome came late");
    }
}

async fn a_cancelled_submission_is_waited_for<G: TestChain>(chain: &G) {
    let first = chain.submitter();
    let (progress, mut reports) = mpsc::channel(8);
    let batch = CallBatch::new(chain.signer(), vec![chain.call(5)]);
    {
        let submitted = first.submit(&batch, progress);
        tokio::pin!(submitted);
        tokio::select! {
            result = &mut submitted => panic!("an outcome without a block: {result:?}"),
            report = timeout(TIMEOUT, reports.recv()) => {
                assert!(matches!(report, Ok(Some(SubmitProgress::Submitted { .. }))), "{report:?}");
            }
        }
    }
    // Another process, and the same one after its cached knowledge was discarded.
    let second = chain.submitter();
    let account = chain.signer().account();
    first.forget(account);
    for submitter in [&second, &first] {
        let early = timeout(SETTLE, submitter.effects(account, &batch.calls)).await;
        assert!(early.is_err(), "effects were returned while a transaction is pending: {early:?}");
    }
    assert_eq!(
        effects(chain, &*second, &batch.calls).await.0,
        [Effect::Present],
        "another submitter sees the effect"
    );
    // The nonce must be the next one: neither the old transaction's nor one beyond a gap.
    done(chain, &*second, 6).await;
    first.forget(account);
    done(chain, &*first, 7).await;
}

async fn forged_signatures_are_refused<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    let forged = chain.forged();
    assert_eq!(forged.account(), chain.signer().account(), "it claims to be the operator");
    let error = send(chain, &*submitter, forged, vec![chain.call(8)]).await.unwrap_err();
    assert!(matches!(error, SubmitError::BadKey { .. }) && !error.is_retryable(), "{error:?}");
    assert_eq!(
        effects(chain, &*submitter, &[chain.call(8)]).await.0,
        [Effect::Missing],
        "the call has no effect on chain"
    );
    done(chain, &*submitter, 8).await;
}

/// A signer that is unavailable.
#[derive(Debug)]
struct UnavailableSigner(AccountId);

#[async_trait]
impl Signer for UnavailableSigner {
    fn account(&self) -> AccountId {
        self.0
    }

    async fn sign(&self, _payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error> {
        Err(Error::Unavailable { account: self.0, source: "away".into() })
    }
}

async fn an_unavailable_signer_sends_nothing<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    let away = Arc::new(UnavailableSigner(chain.signer().account()));
    let error = send(chain, &*submitter, away, vec![chain.call(9)]).await.unwrap_err();
    assert!(matches!(error, SubmitError::NotSigned(_)) && error.is_retryable(), "{error:?}");
    assert_eq!(
        effects(chain, &*submitter, &[chain.call(9)]).await.0,
        [Effect::Missing],
        "the call has no effect on chain"
    );
    done(chain, &*submitter, 9).await;
}

async fn an_account_that_cannot_pay_is_reported<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    match send(chain, &*submitter, chain.poor(), vec![chain.call(10)]).await {
        Err(SubmitError::InsufficientFees { available, needed, .. }) => {
            assert!(available < needed, "{available} of {needed}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        effects(chain, &*submitter, &[chain.call(10)]).await.0,
        [Effect::Missing],
        "the call has no effect on chain"
    );
}

async fn a_full_progress_channel_loses_no_outcome<G: TestChain>(chain: &G) {
    let submitter = chain.submitter();
    let (progress, reports) = mpsc::channel(1);
    let extrinsic = crate::primitives::Hash([1; 32]);
    // Fills the channel's only slot.
    progress.try_send(SubmitProgress::Submitted { extrinsic }).unwrap();
    let batch = CallBatch::new(chain.signer(), vec![chain.call(11)]);
    let outcome =
        ticking(chain, "a submission without a progress receiver", submitter.submit(&batch, progress)).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())], "the outcome arrives although progress is lost");
    drop(reports);
    let (closed, _) = mpsc::channel(1);
    let batch = CallBatch::new(chain.signer(), vec![chain.call(12)]);
    let outcome =
        ticking(chain, "a submission without a progress receiver", submitter.submit(&batch, closed)).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())], "the outcome arrives although progress is lost");
}
