//! Decides what follows from a transaction's result: a pure function, tested as a table.

use super::call_limits::CallLimits;
use crate::chain::SubmitError;

/// The size of a transaction whose result is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Number of calls.
    pub(super) calls: usize,
    /// Number of jobs to which they belong.
    pub(super) jobs: usize,
}

/// The result of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending<'a> {
    /// A finalised block contains it.
    Included,
    /// The submitter failed, or does not know the outcome.
    Failed(&'a SubmitError),
    /// The account's lease was lost while the transaction was in flight.
    AccountLost,
}

/// The lane's reaction to a transaction's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The limits of the next transaction.
    pub(super) limits: CallLimits,
    /// The calls may be on chain: remember them as recently sent.
    pub(super) maybe_sent: bool,
    /// Effects must be read from the chain before anything else is sent.
    pub(super) unresolved: bool,
    pub(super) next: Next,
}

/// What to do with the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Record the results of the calls; send those that were not in the transaction.
    Record,
    /// Send the single job at once, in smaller transactions.
    SendInParts,
    /// Return the jobs to the lane: those that fit are sent at once, and end before the others.
    SendFewer,
    /// Nothing was sent, and a retry may succeed: keep the jobs in the lane, and pause it.
    Pause,
    /// One of the jobs may be the cause: bisect until it is isolated.
    Halve,
    /// End all jobs of the next batch: the account cannot pay for a single call.
    EndUnpayable,
    /// End the jobs, or retry them later.
    End { retry: bool },
    /// Leave the jobs to the trader that now holds the account.
    YieldAccount,
}

/// Decides what follows from a transaction's `ending`. `max_calls` is the maximum of the cap.
pub(super) fn decide(limits: CallLimits, max_calls: usize, sent: Sent, ending: Ending<'_>) -> Verdict {
    let Sent { calls, jobs } = sent;
    let verdict = |limits, next| Verdict { limits, maybe_sent: true, unresolved: false, next };
    let fewer = if jobs > 1 { Next::SendFewer } else { Next::SendInParts };
    // Any other error says nothing about what the account can pay for.
    let paid = CallLimits::new(limits.cap);
    let error = match ending {
        Ending::Included => return verdict(limits.included(calls, max_calls), Next::Record),
        Ending::AccountLost => {
            return Verdict { unresolved: true, ..verdict(limits, Next::YieldAccount) };
        }
        Ending::Failed(error) => error,
    };
    match error {
        SubmitError::TooLarge { fits, .. } if calls > 1 => {
            Verdict { maybe_sent: false, ..verdict(limits.too_large(calls, *fits), fewer) }
        }
        SubmitError::InsufficientFees { .. } if calls > 1 => verdict(limits.unpayable(calls), fewer),
        // A single call that cannot be paid for: no smaller transaction exists.
        SubmitError::InsufficientFees { .. } if jobs == 1 => verdict(paid, Next::EndUnpayable),
        SubmitError::NotSigned(_) if error.is_retryable() => {
            Verdict { maybe_sent: false, ..verdict(limits, Next::Pause) }
        }
        // The cap is lowered as well: the transaction may have been too large for the blocks that collators build.
        SubmitError::Lost { .. } | SubmitError::Unknown { .. } => {
            Verdict { unresolved: true, ..verdict(limits.lost(), Next::End { retry: true }) }
        }
        _ if jobs > 1 && may_be_caused_by_one_job(error) => verdict(paid, Next::Halve),
        _ => verdict(paid, Next::End { retry: error.is_retryable() }),
    }
}

/// Whether the transaction may be accepted without one of its jobs.
const fn may_be_caused_by_one_job(error: &SubmitError) -> bool {
    let caused_by_call = matches!(
        error,
        SubmitError::Refused { .. }
            | SubmitError::Unsupported { .. }
            | SubmitError::TooLarge { .. }
            // The transaction is signed with the first job's key.
            | SubmitError::BadKey { .. }
            | SubmitError::NotSigned(_)
    );
    caused_by_call && !error.is_retryable()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{chain::DispatchError, primitives::AccountId, signer};

    const MAX: usize = 1_000;

    fn errors() -> Vec<(&'static str, SubmitError)> {
        let account = AccountId([1; 32]);
        let signer_away =
            signer::Error::Unavailable { account, source: Box::new(std::io::Error::other("away")) };
        let signer_refuses = signer::Error::Refused { account, reason: "policy".into() };
        let refused = |retryable| SubmitError::Refused { reason: "no".into(), retryable };
        vec![
            ("too large", SubmitError::TooLarge { calls: 9, fits: 5, reason: "x".into() }),
            ("fees", SubmitError::InsufficientFees { account: "a".into(), available: 1, needed: 2 }),
            ("bad key", SubmitError::BadKey { account: "a".into(), reason: "x".into() }),
            ("signer away", SubmitError::NotSigned(signer_away)),
            ("signer refuses", SubmitError::NotSigned(signer_refuses)),
            ("dispatch", SubmitError::Dispatch(DispatchError { name: "A::B".into() })),
            ("refused", refused(false)),
            ("refused for now", refused(true)),
            ("lost", SubmitError::Lost { reason: "x".into() }),
            ("unknown", SubmitError::Unknown { waited: Duration::ZERO, reason: "x".into() }),
            ("unsupported", SubmitError::Unsupported { call: "A::b", reason: "x".into() }),
            ("unavailable", SubmitError::Unavailable("away".into())),
        ]
    }

    /// The reaction to each error for: several jobs, one job of several calls, one job of one call, several
    /// jobs with the same call.
    #[test]
    fn each_error_has_its_row() {
        use Next::{EndUnpayable, Halve, Pause, SendFewer, SendInParts};
        let (end, retry) = (Next::End { retry: false }, Next::End { retry: true });
        let rows = [
            ("too large", [SendFewer, SendInParts, end, Halve]),
            ("fees", [SendFewer, SendInParts, EndUnpayable, end]),
            ("bad key", [Halve, end, end, Halve]),
            ("signer away", [Pause; 4]),
            ("signer refuses", [Halve, end, end, Halve]),
            ("dispatch", [end; 4]),
            ("refused", [Halve, end, end, Halve]),
            ("refused for now", [retry; 4]),
            ("lost", [retry; 4]),
            ("unknown", [retry; 4]),
            ("unsupported", [Halve, end, end, Halve]),
            ("unavailable", [retry; 4]),
        ];
        let cases = [(9, 3), (9, 1), (1, 1), (1, 2)].map(|(calls, jobs)| Sent { calls, jobs });
        let limits = CallLimits { cap: 100, payable: 50 };
        for ((name, error), (row, expected)) in errors().into_iter().zip(rows) {
            assert_eq!(name, row);
            for (sent, next) in cases.into_iter().zip(expected) {
                let verdict = decide(limits, MAX, sent, Ending::Failed(&error));
                assert_eq!(verdict.next, next, "{name}, {sent:?}");
                let open = matches!(name, "lost" | "unknown");
                assert_eq!(verdict.unresolved, open, "{name}, {sent:?}");
                let unsent = name == "signer away" || (name == "too large" && sent.calls > 1);
                assert_eq!(verdict.maybe_sent, !unsent, "{name}, {sent:?}");
                let expected = match (name, sent.calls) {
                    ("too large", 9) => CallLimits { cap: 5, payable: 50 },
                    ("fees", 9) => CallLimits { cap: 100, payable: 4 },
                    ("signer away", _) => limits,
                    ("lost" | "unknown", _) => CallLimits::new(50),
                    _ => CallLimits::new(100),
                };
                assert_eq!(verdict.limits, expected, "{name}, {sent:?}");
            }
        }
    }

    #[test]
    fn the_cap_grows_with_full_transactions_alone_and_up_to_its_bound() {
        let included = |cap, calls| {
            let verdict = decide(CallLimits::new(cap), MAX, Sent { calls, jobs: 2 }, Ending::Included);
            assert_eq!((verdict.next, verdict.unresolved, verdict.maybe_sent), (Next::Record, false, true));
            verdict.limits.cap
        };
        assert_eq!(included(100, 99), 100);
        assert_eq!(included(100, 100), 200);
        assert_eq!(included(1, 1), 2);
        assert_eq!(included(600, 600), MAX);
        assert_eq!(included(MAX, MAX), MAX);
    }

    #[test]
    fn no_limit_is_below_one_call() {
        let lost = SubmitError::Lost { reason: "x".into() };
        let fees = SubmitError::InsufficientFees { account: "a".into(), available: 1, needed: 2 };
        let large = SubmitError::TooLarge { calls: 2, fits: 0, reason: "x".into() };
        for error in [&lost, &fees, &large] {
            for calls in 1..4 {
                let sent = Sent { calls, jobs: 1 };
                let verdict = decide(CallLimits { cap: 1, payable: 1 }, MAX, sent, Ending::Failed(error));
                assert!(verdict.limits.max_calls() >= 1, "{error}");
            }
        }
    }

    #[test]
    fn a_lost_account_leaves_the_transaction_unresolved() {
        let limits = CallLimits { cap: 100, payable: 50 };
        let verdict = decide(limits, MAX, Sent { calls: 9, jobs: 3 }, Ending::AccountLost);
        let expected = Verdict { limits, maybe_sent: true, unresolved: true, next: Next::YieldAccount };
        assert_eq!(verdict, expected);
    }
}
