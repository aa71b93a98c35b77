//! Classifies a node's answer to a submission.

use prb_core::text::describe;
use std::fmt;

use jsonrpsee::core::client::Subscription;
use prb_core::chain::SubmitError;
use serde_json::value::{RawValue, to_raw_value};

use super::{Inner, prepare::Prepared};
use crate::rpc::{self, Node, json::HexBytes};

/// A subscription to a transaction's status.
pub(super) type Watch = Subscription<Box<RawValue>>;

/// Why a node did not accept a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was built on an outdated state of the chain: another runtime, another nonce.
    MovedOn { reason: String, is_signature: bool },
    /// The operator cannot pay it.
    Payment { reason: String },
    /// It does not fit into a block.
    TooLarge { reason: String },
    /// The pool has another transaction of the account with its nonce.
    NonceTaken { reason: String },
    /// Any other reason.
    Other { reason: String, retryable: bool },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MovedOn { reason, .. } => write!(f, "built on an older state of the chain: {reason}"),
            Self::Payment { reason } => write!(f, "it cannot be paid for: {reason}"),
            Self::TooLarge { reason } => write!(f, "it does not fit in a block: {reason}"),
            Self::NonceTaken { reason } | Self::Other { reason, .. } => f.write_str(reason),
        }
    }
}

impl Refusal {
    /// Whether another transaction with the same calls may be accepted soon.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self, Self::MovedOn { .. } | Self::NonceTaken { .. } | Self::Other { retryable: true, .. })
    }
}

/// Codes of Substrate's `author` module.
mod code {
    use std::ops::RangeInclusive;

    pub(super) const AUTHOR: RangeInclusive<i32> = 1000..=1999;
    pub(super) const VERIFICATION: i32 = 1002;
    pub(super) const INVALID: i32 = 1010;
    pub(super) const ALREADY_IMPORTED: i32 = 1013;
    pub(super) const TOO_LOW_PRIORITY: i32 = 1014;
    pub(super) const UNACTIONABLE: i32 = 1017;
}

impl Inner {
    /// Submits a transaction to a node and subscribes to its status. `None` if it may have been submitted without
    /// a subscription: the node knows it already, offers no subscription, or the connection was lost before the
    /// answer.
    pub(super) async fn submit_to(&self, node: &Node, prepared: &Prepared) -> Result<Option<Watch>, Refusal> {
        let params = to_raw_value(&[HexBytes(prepared.extrinsic.clone())])
            .map_err(|e| Refusal::Other { reason: e.to_string(), retryable: false })?;
        let watch =
            node.subscribe("author_submitAndWatchExtrinsic", Some(params.clone()), "author_unwatchExtrinsic");
        let answer = match watch.await {
            // The finalised blocks are searched instead.
            Err(e) if matches!(e.refusal(), Some(rpc::Refusal::NoMethod | rpc::Refusal::Limited)) => {
                node.request_raw("author_submitExtrinsic", Some(params)).await.map(|_| None)
            }
            answer => answer.map(Some),
        };
        match answer {
            Ok(watch) => Ok(watch),
            // The node has it from an earlier attempt or from a peer, and gives no second subscription.
            Err(rpc::Error::Call { code: code::ALREADY_IMPORTED, .. }) => Ok(None),
            // Not a refusal: the node may have accepted it before the connection was lost.
            Err(e) if e.is_retryable() && e.refusal().is_none() => {
                tracing::info!(node = %node.name(), error = %describe(&e), "connection to node lost while a transaction was submitted");
                Ok(None)
            }
            Err(e) => Err(classify(&e)),
        }
    }

    /// Converts the refusal to the caller's error.
    pub(super) async fn refused(&self, node: &Node, refusal: Refusal, prepared: &Prepared) -> SubmitError {
        match refusal {
            Refusal::MovedOn { reason, .. } | Refusal::NonceTaken { reason } => {
                SubmitError::Refused { reason, retryable: true }
            }
            Refusal::Other { reason, retryable } => SubmitError::Refused { reason, retryable },
            Refusal::TooLarge { reason } => {
                SubmitError::TooLarge { calls: prepared.calls, fits: prepared.calls / 2, reason }
            }
            Refusal::Payment { reason } => match self.shortfall(node, prepared).await {
                Ok(Some(e)) => e,
                // Funds have arrived in the meantime.
                Ok(None) => SubmitError::Refused { reason, retryable: true },
                Err(_) => SubmitError::Refused { reason, retryable: false },
            },
        }
    }
}

fn classify(e: &rpc::Error) -> Refusal {
    let reason = describe(e);
    let rpc::Error::Call { code, message, .. } = e else {
        return Refusal::Other { reason, retryable: false };
    };
    let is_of_author = code::AUTHOR.contains(code);
    let message = message.to_ascii_lowercase();
    let says = |words: &str| message.contains(words);
    // The texts are those of Substrate's `InvalidTransaction`.
    if *code == code::INVALID && says("inability to pay") {
        Refusal::Payment { reason }
    } else if says("exhaust the block limits") || says("too large") || says("too big") {
        Refusal::TooLarge { reason }
    } else if *code == code::VERIFICATION
        || (*code == code::INVALID
            && ["outdated", "bad signature", "ancient birth block"].into_iter().any(says))
    {
        Refusal::MovedOn { reason, is_signature: says("bad signature") }
    } else if *code == code::TOO_LOW_PRIORITY {
        Refusal::NonceTaken { reason }
    } else {
        // 1011 unknown validity, 1012 temporarily banned, 1016 the pool is full: all are temporary. Otherwise 1010 is
        // the transaction's own fault. Codes of other modules and of the server say nothing about the transaction.
        let retryable = !is_of_author || (code::INVALID + 1..=code::UNACTIONABLE - 1).contains(code);
        Refusal::Other { reason, retryable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: i32, message: &str) -> Refusal {
        classify(&rpc::Error::Call { node: "n".into(), method: "m".into(), code, message: message.into() })
    }

    #[test]
    fn substrate_refusals_are_classified() {
        let invalid = |what| refusal(1010, &format!("Invalid Transaction: \"{what}\""));
        assert!(matches!(invalid("Transaction is outdated"), Refusal::MovedOn { .. }));
        assert!(matches!(invalid("Transaction has a bad signature"), Refusal::MovedOn { .. }));
        assert!(matches!(refusal(1002, "Verification Error: Runtime error"), Refusal::MovedOn { .. }));
        let payment = "Inability to pay some fees (e.g. account balance too low)";
        assert!(matches!(invalid(payment), Refusal::Payment { .. }));
        assert!(matches!(invalid("Transaction would exhaust the block limits"), Refusal::TooLarge { .. }));
        assert!(matches!(refusal(-32007, "Request is too big"), Refusal::TooLarge { .. }));
        assert!(matches!(
            invalid("Transaction call is not expected"),
            Refusal::Other { retryable: false, .. }
        ));
        assert!(matches!(refusal(1014, "Priority is too low: (2 vs 1)"), Refusal::NonceTaken { .. }));
        for code in [1011, 1012, 1016, -32601, -32603, -32000] {
            assert!(matches!(refusal(code, "later"), Refusal::Other { retryable: true, .. }), "{code}");
        }
        for code in [1000, 1001, 1010, 1017] {
            assert!(matches!(refusal(code, "no"), Refusal::Other { retryable: false, .. }), "{code}");
        }
    }
}
