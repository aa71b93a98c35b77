//! Faults of a node, or of both chains, as text: for flags and for the `devnet_inject` call of a running node.

use std::{str::FromStr, time::Duration};

use super::{Node, ProofFault, TransactionFault};

/// A fault of a node, or of both chains whichever node it is injected at, as `name` or `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Maximum number of calls in a batch; 0 disables batches.
    BatchCalls(u32),
    /// Maximum size of an answer, in bytes.
    AnswerBytes(u32),
    /// Maximum number of connections; further ones get HTTP 429 at the handshake.
    Connections(u32),
    /// Maximum number of requests a second.
    RateLimit(u32),
    /// Refuses a method.
    Refuse(String),
    /// Never answers a method.
    Hold(String),
    /// Answers a method with this many bytes.
    Oversize(String, usize),
    /// A method is answered without end.
    Endless(String),
    /// No request is answered, pings are.
    Hang,
    /// Delays every answer.
    Slow(Duration),
    /// How finality proofs are answered.
    Proofs(ProofFault),
    /// Keeps the states of only this many of the newest blocks.
    KeepStates(u32),
    /// Announces a finalised head that does not exist.
    FalseHead(u32),
    /// Shows no block after this one.
    FreezeAt(u32),
    /// Shows no block after the currently final one.
    Stale,
    /// Answers every other request as a backend that lags by this many blocks.
    Alternate(u32),
    /// Treats another block of this number as the canonical one.
    ForkAt(u32),
    /// Shows a header with a wrong state root.
    BadHeader(u32),
    /// Flips a bit in storage changes.
    BadChanges(u32),
    /// Flips a bit in a justification.
    BadJustification(u32),
    /// What happens to transactions.
    Transactions(TransactionFault),
    /// The server is down for this time, starting now.
    Restart(Duration),
    /// Of the chains: finality lags by this many relay blocks.
    FinalityLag(u32),
    /// Of the chains: the relay chain names no head of the parachain, which stands still.
    Offboard,
    /// Of the chains: the parachain has a head again and continues.
    Onboard,
    /// Of the chains: the next parachain blocks that no relay block includes yet are retracted, once.
    Fork,
    /// Of the chains: the same at every relay block whose number is a multiple of this.
    ForkEvery(u32),
    /// Of the chains: justifications have votes of one authority for two blocks.
    Equivocate,
    /// Of the chains: justifications repeat a header of the votes' ancestry.
    RepeatAncestry,
    /// Of the chains: number of parachain blocks for each relay parent.
    HeadsPerRelayBlock(u32),
    /// Of the chains: the second next parachain block changes this many bytes.
    Burst(u32),
}

/// A fault's syntax, meaning and parser.
struct Syntax {
    name: &'static str,
    value: &'static str,
    meaning: &'static str,
    read: fn(&str) -> Option<Fault>,
}

fn millis(text: &str) -> Option<Duration> {
    Some(Duration::from_millis(text.parse().ok()?))
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn proofs(text: &str) -> Option<ProofFault> {
    Some(match text.split_once(':') {
        Some(("truncated", headers)) => ProofFault::Truncated(headers.parse().ok()?),
        Some(_) => return None,
        None => match text {
            "uncovered" => ProofFault::Uncovered,
            "null" => ProofFault::Null,
            "old" => ProofFault::Old,
            "tip-only" => ProofFault::TipOnly,
            _ => return None,
        },
    })
}

fn transactions(text: &str) -> Option<TransactionFault> {
    match text {
        "swallowed" => Some(TransactionFault::Swallowed),
        "dropped" => Some(TransactionFault::Dropped),
        _ => None,
    }
}

fn method(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

const fn syntax(
    name: &'static str,
    value: &'static str,
    meaning: &'static str,
    read: fn(&str) -> Option<Fault>,
) -> Syntax {
    Syntax { name, value, meaning, read }
}

const FAULTS: &[Syntax] = &[
    syntax("batch-calls", "N", "maximum number of calls in a batch, 0 disables batches", |v| {
        number(v).map(Fault::BatchCalls)
    }),
    syntax("answer-bytes", "N", "maximum size of an answer", |v| number(v).map(Fault::AnswerBytes)),
    syntax("connections", "N", "maximum number of connections, further ones get HTTP 429", |v| {
        number(v).map(Fault::Connections)
    }),
    syntax("rate-limit", "N", "maximum number of requests a second on a connection", |v| {
        number(v).map(Fault::RateLimit)
    }),
    syntax("refuse", "METHOD", "refuses a method; pha_* refuses all with that prefix", |v| {
        method(v).map(Fault::Refuse)
    }),
    syntax("hold", "METHOD", "never answers a method", |v| method(v).map(Fault::Hold)),
    syntax("oversize", "METHOD:BYTES", "answers a method with this many bytes", |v| {
        let (name, bytes) = v.split_once(':')?;
        Some(Fault::Oversize(method(name)?, bytes.parse().ok()?))
    }),
    syntax(
        "endless",
        "METHOD",
        "answers a method without end; with a trailing *, all methods with that prefix",
        |v| method(v).map(Fault::Endless),
    ),
    syntax("hang", "", "answers pings and nothing else", |_| Some(Fault::Hang)),
    syntax("slow", "MS", "delays every answer by this time", |v| millis(v).map(Fault::Slow)),
    syntax("proofs", "uncovered|null|old|tip-only|truncated:N", "how finality proofs are answered", |v| {
        proofs(v).map(Fault::Proofs)
    }),
    syntax("keep-states", "N", "keeps the states of only this many of the newest blocks", |v| {
        number(v).map(Fault::KeepStates)
    }),
    syntax("false-head", "N", "announces a finalised head of this number that does not exist", |v| {
        number(v).map(Fault::FalseHead)
    }),
    syntax("freeze-at", "N", "shows no block after this one", |v| number(v).map(Fault::FreezeAt)),
    syntax("stale", "", "shows no block after the currently final one", |_| Some(Fault::Stale)),
    syntax("alternate", "N", "answers every other request as a node that lags by this many blocks", |v| {
        number(v).map(Fault::Alternate)
    }),
    syntax("fork-at", "N", "treats another block of this number as the canonical one", |v| {
        number(v).map(Fault::ForkAt)
    }),
    syntax("bad-header", "N", "shows a wrong state root in this header", |v| number(v).map(Fault::BadHeader)),
    syntax("bad-changes", "N", "flips a bit in this block's storage changes", |v| {
        number(v).map(Fault::BadChanges)
    }),
    syntax("bad-justification", "N", "flips a bit in this block's justification", |v| {
        number(v).map(Fault::BadJustification)
    }),
    syntax("transactions", "swallowed|dropped", "what happens to transactions", |v| {
        transactions(v).map(Fault::Transactions)
    }),
    syntax("restart", "MS", "the server is down for this time, once", |v| millis(v).map(Fault::Restart)),
    syntax("finality-lag", "N", "both chains: finality lags by this many relay blocks; 0 catches up", |v| {
        number(v).map(Fault::FinalityLag)
    }),
    syntax("offboard", "", "both chains: the relay chain names no head of the parachain", |_| {
        Some(Fault::Offboard)
    }),
    syntax("onboard", "", "both chains: the parachain has a head again and continues", |_| {
        Some(Fault::Onboard)
    }),
    syntax(
        "fork",
        "",
        "both chains: the next parachain blocks are retracted before they are final, once",
        |_| Some(Fault::Fork),
    ),
    syntax("fork-every", "N", "both chains: the same at every Nth relay block; 0 ends this", |v| {
        number(v).map(Fault::ForkEvery)
    }),
    syntax("equivocate", "", "both chains: one authority votes for two blocks", |_| Some(Fault::Equivocate)),
    syntax("repeat-ancestry", "", "both chains: justifications repeat a header", |_| {
        Some(Fault::RepeatAncestry)
    }),
    syntax(
        "heads-per-relay-block",
        "N",
        "both chains: number of parachain blocks for each relay parent",
        |v| number(v).map(Fault::HeadsPerRelayBlock),
    ),
    syntax("burst", "N", "both chains: the second next parachain block changes this many bytes", |v| {
        number(v).map(Fault::Burst)
    }),
];

impl Fault {
    /// Lists every fault with its syntax and meaning, one per line.
    #[must_use]
    pub fn list() -> String {
        let lines = FAULTS.iter().map(|syntax| {
            let equals = if syntax.value.is_empty() { "" } else { "=" };
            format!("{}{equals}{}: {}", syntax.name, syntax.value, syntax.meaning)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether it only takes effect at the RPC server's next start.
    #[must_use]
    pub const fn is_server_fault(&self) -> bool {
        matches!(self, Self::BatchCalls(_) | Self::AnswerBytes(_) | Self::Connections(_) | Self::Restart(_))
    }

    /// How long the server is down before its next start.
    pub(crate) const fn downtime(&self) -> Duration {
        match self {
            Self::Restart(downtime) => *downtime,
            _ => Duration::ZERO,
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let syntax = FAULTS.iter().find(|syntax| syntax.name == name);
        let syntax =
            syntax.ok_or_else(|| format!("{name:?} is not a fault; the faults are\n{}", Self::list()))?;
        // A value where none belongs is refused as well: it is probably meant for another fault.
        let fault = (syntax.read)(value).filter(|_| syntax.value.is_empty() == value.is_empty());
        fault.ok_or_else(|| format!("{text:?}: write {name}={}", syntax.value))
    }
}

impl Node {
    /// Ends all faults of the node and of the chains, except the limits of its server.
    pub fn heal(&self) {
        self.faults().heal();
        self.chain_faults().heal();
    }

    /// Injects a fault, in addition to the current ones. One [of the server](Fault::is_server_fault) takes effect at
    /// its next start.
    pub fn inject(&self, fault: &Fault) {
        let (faults, chains) = (self.faults(), self.chain_faults());
        let mut limits = self.rpc_limits();
        match fault {
            Fault::BatchCalls(calls) => limits.batch_calls = *calls,
            Fault::AnswerBytes(bytes) => limits.answer_bytes = *bytes,
            Fault::Connections(count) => limits.connections = *count,
            Fault::RateLimit(requests) => faults.limit_rate(Some(*requests)),
            Fault::Refuse(method) => faults.refuse(method),
            Fault::Hold(method) => faults.hold(method),
            Fault::Oversize(method, bytes) => faults.oversize(method, *bytes),
            Fault::Endless(method) => faults.endless(method),
            Fault::Hang => faults.hang(true),
            Fault::Slow(delay) => faults.slow(*delay),
            Fault::Proofs(fault) => faults.proofs(*fault),
            Fault::KeepStates(blocks) => faults.keep_states(Some(*blocks)),
            Fault::FalseHead(number) => faults.false_head(Some(*number)),
            Fault::FreezeAt(number) => faults.freeze_at(Some(*number)),
            Fault::Stale => faults.freeze_at(Some(self.finalized_number())),
            Fault::Alternate(behind) => faults.alternate(Some(*behind)),
            Fault::ForkAt(number) => faults.fork_at(Some(*number)),
            Fault::BadHeader(number) => faults.corrupt_header(*number),
            Fault::BadChanges(number) => faults.corrupt_storage_changes(*number),
            Fault::BadJustification(number) => faults.corrupt_justification(*number),
            Fault::Transactions(fault) => faults.transactions(*fault),
            // Stopping and starting the server is up to the caller.
            Fault::Restart(_) => {}
            Fault::FinalityLag(blocks) => chains.lag_finality(*blocks),
            Fault::Offboard => chains.offboard(true),
            Fault::Onboard => chains.offboard(false),
            Fault::Fork => chains.fork_next(true),
            Fault::ForkEvery(blocks) => chains.fork_every(*blocks),
            Fault::Equivocate => chains.equivocate(),
            Fault::RepeatAncestry => chains.repeat_ancestry(),
            Fault::HeadsPerRelayBlock(heads) => chains.set_heads_per_relay_block(*heads),
            Fault::Burst(bytes) => chains.burst(*bytes),
        }
        self.set_rpc_limits(limits);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_forms_are_parsed_and_others_refused() {
        for syntax in FAULTS {
            let values = match syntax.value {
                "" => vec![""],
                "N" | "MS" => vec!["=7"],
                "METHOD" => vec!["=chain_getBlock"],
                "METHOD:BYTES" => vec!["=chain_getBlock:7"],
                listed => listed.split('|').collect(),
            };
            for value in values {
                let value = value.trim_start_matches('=').replace(":N", ":7");
                let equals = if value.is_empty() { "" } else { "=" };
                let text = format!("{}{equals}{value}", syntax.name);
                assert!(text.parse::<Fault>().is_ok(), "{text}");
            }
        }
        assert_eq!("proofs=truncated:3".parse(), Ok(Fault::Proofs(ProofFault::Truncated(3))));
        for text in ["slow", "slow=x", "hang=1", "proofs=", "proofs=null:3", "nothing", "refuse="] {
            let reason = text.parse::<Fault>().unwrap_err();
            assert!(reason.contains(text.split('=').next().unwrap()), "{reason}");
        }
    }
}
