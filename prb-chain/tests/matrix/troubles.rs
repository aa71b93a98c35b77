//! The faults, the expected log of each, and whether its node alone suffices.

/// The fault of the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A fault of the relay chain's node.
    Relay(&'static str),
    /// A fault of the parachain's node.
    Para(&'static str),
    /// It is of another chain.
    OtherGenesis,
    /// Its answers after the handshake never end.
    Endless,
    /// It restarts in the middle.
    Restarts,
}

/// What happens if this node is the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    /// The ingest continues.
    GoesOn,
    /// The ingest continues once the fault is gone.
    Waits,
    /// The ingest can never continue.
    Never,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) what: What,
    pub(crate) alone: Alone,
    /// The expected log if the node is the only one, or one of several texts; empty if the fault has no effect.
    pub(crate) log: &'static str,
}

impl Trouble {
    /// Whether two faults cannot be combined.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        let kind = |text: &'static str| text.split('=').next().unwrap_or(text);
        match (self.what, other.what) {
            (What::Relay(one), What::Relay(other)) | (What::Para(one), What::Para(other)) => {
                kind(one) == kind(other)
            }
            (one, other) => one == other,
        }
    }
}

const fn relay(fault: &'static str, alone: Alone, log: &'static str) -> Trouble {
    Trouble { what: What::Relay(fault), alone, log }
}

const fn para(fault: &'static str, alone: Alone, log: &'static str) -> Trouble {
    Trouble { what: What::Para(fault), alone, log }
}

use Alone::{GoesOn, Never, Waits};

pub(crate) const ALL: &[Trouble] = &[
    relay("batch-calls=0", GoesOn, ""),
    relay("batch-calls=2", GoesOn, ""),
    relay("answer-bytes=4500", GoesOn, "--rpc-max-response-size"),
    relay("connections=0", Waits, "429"),
    relay("rate-limit=10", GoesOn, "--rpc-rate-limit"),
    relay("proofs=uncovered", GoesOn, "not covered by authority set changes"),
    relay("proofs=null", GoesOn, "it has no proof of block"),
    relay("proofs=old", GoesOn, "asked to prove block"),
    relay("proofs=tip-only", GoesOn, "it has no proof of block"),
    relay("proofs=truncated:3", GoesOn, "ends with the header of block"),
    relay("refuse=grandpa_proveFinality", GoesOn, "history comes by blocks' justifications"),
    relay("keep-states=8", Waits, "--state-pruning archive"),
    relay("false-head=28000000", GoesOn, ""),
    relay("stale", Waits, "no new finalised block"),
    relay("alternate=4", GoesOn, ""),
    relay("hang", Waits, "Request timeout"),
    relay("hold=chain_getHeader", Waits, "did not answer chain_getHeader in time"),
    relay("slow=50", GoesOn, ""),
    relay("bad-header=13", Waits, "node answered wrongly, demoted"),
    relay("bad-justification=40", Waits, "node answered wrongly, demoted"),
    relay("oversize=state_getReadProof:100000", Waits, "undecodable answer"),
    para("batch-calls=0", GoesOn, ""),
    para("answer-bytes=8000", GoesOn, ""),
    para("connections=0", Waits, "429"),
    para("rate-limit=10", GoesOn, "--rpc-rate-limit"),
    para("refuse=pha_*", Waits, "add a node that offers pha_getStorageChanges"),
    para("keep-states=8", Waits, "--state-pruning archive"),
    para("false-head=28000000", GoesOn, ""),
    para("stale", Waits, "no new finalised block"),
    para("alternate=4", GoesOn, ""),
    para("fork-at=20", GoesOn, ""),
    para("hang", Waits, "Request timeout"),
    para("hold=pha_getStorageChanges", Waits, "did not answer pha_getStorageChanges in time"),
    para("slow=50", GoesOn, ""),
    para("bad-header=13", Waits, "node answered wrongly, demoted"),
    para("oversize=pha_getStorageChanges:100000", Waits, "undecodable answer"),
    para("oversize=pha_getStorageChanges:2200000", Waits, "connection to node lost|did not answer"),
    Trouble { what: What::OtherGenesis, alone: Never, log: "serves another chain" },
    Trouble { what: What::Endless, alone: Never, log: "connection to node lost" },
    Trouble { what: What::Restarts, alone: GoesOn, log: "cannot use node|connection to node lost" },
];
