//! The faults, the expected log of each, and whether its node alone suffices.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::proxy::Mangle;

/// What is wrong with the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A fault of the relay chain's node.
    Relay(&'static str),
    /// A fault of the parachain's node.
    Para(&'static str),
    /// It is of another chain.
    OtherGenesis,
    /// Something is done to some of its messages.
    Mangled(Mangle),
    /// It goes away and comes back in the middle.
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
            (What::Mangled(_), What::Mangled(_)) => true,
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
    relay("proofs=old", GoesOn, "asked for a proof of block"),
    relay("proofs=tip-only", GoesOn, "it has no proof of block"),
    relay("proofs=truncated:3", GoesOn, "ends with the header of block"),
    relay("refuse=grandpa_proveFinality", GoesOn, "history comes by blocks' justifications"),
    relay("keep-states=8", Waits, "--state-pruning archive"),
    relay("false-head=28000000", GoesOn, ""),
    relay("false-head=4294967295", GoesOn, ""),
    relay("stale", Waits, "no new finalised block"),
    relay("alternate=4", GoesOn, ""),
    relay("hang", Waits, "Request timeout"),
    relay("hold=chain_getHeader", Waits, "did not answer chain_getHeader in time"),
    relay("slow=50", GoesOn, ""),
    relay("bad-header=13", Waits, "node answered wrongly, demoted"),
    relay("bad-justification=40", Waits, "node answered wrongly, demoted"),
    relay("oversize=state_getReadProof:100000", Waits, "undecodable answer"),
    relay("endless=grandpa_proveFinality", Waits, "connection to node lost"),
    para("batch-calls=0", GoesOn, ""),
    para("answer-bytes=8000", GoesOn, ""),
    para("connections=0", Waits, "429"),
    para("rate-limit=10", GoesOn, "--rpc-rate-limit"),
    para("refuse=pha_*", Waits, "add a node that offers pha_getStorageChanges"),
    para("keep-states=8", Waits, "--state-pruning archive"),
    para("false-head=28000000", GoesOn, ""),
    para("false-head=4294967295", GoesOn, ""),
    para("stale", Waits, "no new finalised block"),
    para("alternate=4", GoesOn, ""),
    para("fork-at=20", GoesOn, ""),
    para("hang", Waits, "Request timeout"),
    para("hold=pha_getStorageChanges", Waits, "did not answer pha_getStorageChanges in time"),
    para("slow=50", GoesOn, ""),
    para("bad-header=13", Waits, "node answered wrongly, demoted"),
    para("oversize=pha_getStorageChanges:100000", Waits, "undecodable answer"),
    para("oversize=pha_getStorageChanges:2200000", Waits, "connection to node lost|did not answer"),
    para("endless=pha_*", Waits, "connection to node lost"),
    para("endless=chain_getHeader", Waits, "connection to node lost"),
    Trouble { what: What::OtherGenesis, alone: Never, log: "serves another chain" },
    Trouble { what: What::Restarts, alone: GoesOn, log: "cannot use node|connection to node lost" },
];

/// A node whose messages are mangled now and then: with time, all goes on.
pub(crate) fn mangled(mangle: Mangle) -> &'static Trouble {
    Box::leak(Box::new(Trouble { what: What::Mangled(mangle), alone: GoesOn, log: "" }))
}

/// A fault with a value drawn at random, or some messages mangled.
fn draw(random: &mut StdRng) -> Trouble {
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
            let mangle = *Mangle::ALL.choose(random).unwrap();
            return Trouble { what: What::Mangled(mangle), alone: GoesOn, log: "" };
        }
    };
    if is_relay { relay(fault.leak(), Never, "") } else { para(fault.leak(), Never, "") }
}

/// Two to four that go together.
pub(crate) fn drawn(random: &mut StdRng) -> Vec<&'static Trouble> {
    let mut drawn: Vec<&'static Trouble> = Vec::new();
    let wanted = random.random_range(2..5);
    while drawn.len() < wanted {
        let one = draw(random);
        if !drawn.iter().any(|other| other.excludes(&one)) {
            drawn.push(Box::leak(Box::new(one)));
        }
    }
    drawn
}
