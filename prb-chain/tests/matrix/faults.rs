//! The faults, the expected log of each, and whether its node alone suffices.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::proxy::Corruption;

/// A fault of the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A fault of the relay chain's node.
    Relay(&'static str),
    /// A fault of the parachain's node.
    Para(&'static str),
    /// It serves another chain.
    OtherGenesis,
    /// Some of its messages are corrupted.
    Corrupted(Corruption),
    /// It restarts in the middle.
    Restarts,
}

/// What happens if this node is the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    /// The ingest continues.
    Continues,
    /// The ingest continues once the fault is gone.
    Waits,
    /// The ingest can never continue.
    Never,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NodeFault {
    pub(crate) what: What,
    pub(crate) alone: Alone,
    /// The expected log if the node is the only one, or one of several texts; empty if the fault has no effect.
    pub(crate) log: &'static str,
}

impl NodeFault {
    /// Whether two faults cannot be combined.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        let kind = |text: &'static str| text.split('=').next().unwrap_or(text);
        match (self.what, other.what) {
            (What::Relay(one), What::Relay(other)) | (What::Para(one), What::Para(other)) => {
                kind(one) == kind(other)
            }
            (What::Corrupted(_), What::Corrupted(_)) => true,
            (one, other) => one == other,
        }
    }
}

const fn relay(fault: &'static str, alone: Alone, log: &'static str) -> NodeFault {
    NodeFault { what: What::Relay(fault), alone, log }
}

const fn para(fault: &'static str, alone: Alone, log: &'static str) -> NodeFault {
    NodeFault { what: What::Para(fault), alone, log }
}

use Alone::{Continues, Never, Waits};

pub(crate) const ALL: &[NodeFault] = &[
    relay("batch-calls=0", Continues, ""),
    relay("batch-calls=2", Continues, ""),
    relay("answer-bytes=4500", Continues, "--rpc-max-response-size"),
    relay("connections=0", Waits, "429"),
    relay("rate-limit=10", Continues, "--rpc-rate-limit"),
    relay("proofs=uncovered", Continues, "not covered by authority set changes"),
    relay("proofs=null", Continues, "it has no proof of block"),
    relay("proofs=old", Continues, "asked for a proof of block"),
    relay("proofs=tip-only", Continues, "it has no proof of block"),
    relay("proofs=truncated:3", Continues, "ends with the header of block"),
    relay("refuse=grandpa_proveFinality", Continues, "history comes by blocks' justifications"),
    relay("keep-states=8", Waits, "--state-pruning archive"),
    relay("false-head=28000000", Continues, ""),
    relay("false-head=4294967295", Continues, ""),
    relay("stale", Waits, "no new finalised block"),
    relay("alternate=4", Continues, ""),
    relay("hang", Waits, "Request timeout"),
    relay("hold=chain_getHeader", Waits, "did not answer chain_getHeader in time"),
    relay("slow=50", Continues, ""),
    relay("bad-header=13", Waits, "node answered wrongly, demoted"),
    relay("bad-justification=40", Waits, "node answered wrongly, demoted"),
    relay("oversize=state_getReadProof:100000", Waits, "undecodable answer"),
    relay("endless=grandpa_proveFinality", Waits, "connection to node lost"),
    para("batch-calls=0", Continues, ""),
    para("answer-bytes=8000", Continues, ""),
    para("connections=0", Waits, "429"),
    para("rate-limit=10", Continues, "--rpc-rate-limit"),
    para("refuse=pha_*", Waits, "add a node that offers pha_getStorageChanges"),
    para("keep-states=8", Waits, "--state-pruning archive"),
    para("false-head=28000000", Continues, ""),
    para("false-head=4294967295", Continues, ""),
    para("stale", Waits, "no new finalised block"),
    para("alternate=4", Continues, ""),
    para("fork-at=20", Continues, ""),
    para("hang", Waits, "Request timeout"),
    para("hold=pha_getStorageChanges", Waits, "did not answer pha_getStorageChanges in time"),
    para("slow=50", Continues, ""),
    para("bad-header=13", Waits, "node answered wrongly, demoted"),
    para("oversize=pha_getStorageChanges:100000", Waits, "undecodable answer"),
    para("oversize=pha_getStorageChanges:2200000", Waits, "connection to node lost|did not answer"),
    para("endless=pha_*", Waits, "connection to node lost"),
    para("endless=chain_getHeader", Waits, "connection to node lost"),
    NodeFault { what: What::OtherGenesis, alone: Never, log: "serves another chain" },
    NodeFault { what: What::Restarts, alone: Continues, log: "cannot use node|connection to node lost" },
];

/// A node that sends a corrupted message now and then: the ingest continues with time.
pub(crate) fn corrupted(corrupt: Corruption) -> &'static NodeFault {
    Box::leak(Box::new(NodeFault { what: What::Corrupted(corrupt), alone: Continues, log: "" }))
}

/// A fault with a random value, or corrupted messages.
fn draw(random: &mut StdRng) -> NodeFault {
    const BOTH: [&str; 9] = [
        "answer-bytes=",
        "rate-limit=",
        "slow=",
        "alternate=",
        "false-head=",
        "freeze-at=",
        "keep-states=",
        "bad-header=",
        "hold=",
    ];
    const METHODS: [&str; 6] = [
        "chain_getBlockHash",
        "chain_getHeader",
        "chain_getFinalizedHead",
        "state_getReadProof",
        "pha_getStorageChanges",
        "grandpa_proveFinality",
    ];
    let is_relay = random.random();
    let fault = match random.random_range(0..15) {
        at @ 0..9 => {
            let value = match BOTH[at] {
                "answer-bytes=" => random.random_range(2_000..50_000).to_string(),
                "rate-limit=" => random.random_range(3..40).to_string(),
                "slow=" => random.random_range(1..250).to_string(),
                "alternate=" | "keep-states=" => random.random_range(1..30).to_string(),
                "false-head=" => random.random_range(70..100_000).to_string(),
                "hold=" => METHODS.choose(random).unwrap().to_string(),
                _ => random.random_range(2..60).to_string(),
            };
            BOTH[at].to_owned() + &value
        }
        9 => format!("oversize={}:{}", METHODS.choose(random).unwrap(), random.random_range(1..3_000_000)),
        10 => format!("endless={}", METHODS.choose(random).unwrap()),
        11 => format!("refuse={}", METHODS.choose(random).unwrap()),
        12 if is_relay => format!("proofs=truncated:{}", random.random_range(0..20)),
        13 if is_relay => format!("bad-justification={}", random.random_range(2..60)),
        _ => {
            let corrupt = *Corruption::ALL.choose(random).unwrap();
            return NodeFault { what: What::Corrupted(corrupt), alone: Continues, log: "" };
        }
    };
    if is_relay { relay(fault.leak(), Never, "") } else { para(fault.leak(), Never, "") }
}

/// Two to four faults that can be combined.
pub(crate) fn drawn(random: &mut StdRng) -> Vec<&'static NodeFault> {
    let mut drawn: Vec<&'static NodeFault> = Vec::new();
    let wanted = random.random_range(2..5);
    while drawn.len() < wanted {
        let one = draw(random);
        if !drawn.iter().any(|other| other.excludes(&one)) {
            drawn.push(Box::leak(Box::new(one)));
        }
    }
    drawn
}
