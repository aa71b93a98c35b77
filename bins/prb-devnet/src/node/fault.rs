//! A node's faults as text: for flags, and for the `devnet_inject` call of a running node.

use std::{str::FromStr, time::Duration};

use super::{Node, ProofFault, TransactionFault};

/// A fault of a node, as `name` or `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Most calls of a batch; 0 takes none.
    BatchCalls(u32),
    /// Most bytes of an answer.
    AnswerBytes(u32),
    /// Most connections; more get HTTP 429 at the handshake.
    Connections(u32),
    /// Requests a second.
    RateLimit(u32),
    /// A method is refused.
    Refuse(String),
    /// A method is never answered.
    Hold(String),
    /// A method is answered with so many bytes.
    Oversize(String, usize),
    /// A method is answered without end.
    Endless(String),
    /// No request is answered, pings are.
    Hang,
    /// Every answer is late.
    Slow(Duration),
    /// How finality proofs are answered.
    Proofs(ProofFault),
    /// States of so many newest blocks are kept.
    KeepStates(u32),
    /// A finalised head that no block has.
    FalseHead(u32),
    /// No block after this one.
    FreezeAt(u32),
    /// No block after the final one of now.
    Stale,
    /// Every other request is answered by a backend that is so many blocks behind.
    Alternate(u32),
    /// Another block of this number is taken for the canonical one.
    ForkAt(u32),
    /// A header with a wrong state root.
    BadHeader(u32),
    /// Storage changes with a wrong bit.
    BadChanges(u32),
    /// A justification with a wrong bit.
    BadJustification(u32),
    /// What happens to transactions.
    Transactions(TransactionFault),
    /// The server goes away now, for so long.
    Restart(Duration),
}

/// How a fault is written, what it is, and what reads its value.
struct Form {
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

const fn form(
    name: &'static str,
    value: &'static str,
    meaning: &'static str,
    read: fn(&str) -> Option<Fault>,
) -> Form {
    Form { name, value, meaning, read }
}

const FORMS: &[Form] = &[
    form("batch-calls", "N", "most calls of a batch, 0 takes none", |v| number(v).map(Fault::BatchCalls)),
    form("answer-bytes", "N", "most bytes of an answer", |v| number(v).map(Fault::AnswerBytes)),
    form("connections", "N", "most connections, more get HTTP 429", |v| number(v).map(Fault::Connections)),
    form("rate-limit", "N", "requests a second on a connection", |v| number(v).map(Fault::RateLimit)),
    form("refuse", "METHOD", "refuses a method; pha_* refuses all that start so", |v| {
        method(v).map(Fault::Refuse)
    }),
    form("hold", "METHOD", "never answers a method", |v| method(v).map(Fault::Hold)),
    form("oversize", "METHOD:BYTES", "answers a method with so many bytes", |v| {
        let (name, bytes) = v.split_once(':')?;
        Some(Fault::Oversize(method(name)?, bytes.parse().ok()?))
    }),
    form("endless", "METHOD", "answers a method without end; with * at its end, all that start so", |v| {
        method(v).map(Fault::Endless)
    }),
    form("hang", "", "answers pings and nothing else", |_| Some(Fault::Hang)),
    form("slow", "MS", "answers so much later", |v| millis(v).map(Fault::Slow)),
    form("proofs", "uncovered|null|old|tip-only|truncated:N", "how finality proofs are answered", |v| {
        proofs(v).map(Fault::Proofs)
    }),
    form("keep-states", "N", "keeps the states of so many newest blocks", |v| {
        number(v).map(Fault::KeepStates)
    }),
    form("false-head", "N", "tells of a finalised head of this number", |v| number(v).map(Fault::FalseHead)),
    form("freeze-at", "N", "shows no block after this one", |v| number(v).map(Fault::FreezeAt)),
    form("stale", "", "shows no block after the final one of now", |_| Some(Fault::Stale)),
    form("alternate", "N", "every other answer is of a node so many blocks behind", |v| {
        number(v).map(Fault::Alternate)
    }),
    form("fork-at", "N", "takes another block of this number for the canonical one", |v| {
        number(v).map(Fault::ForkAt)
    }),
    form("bad-header", "N", "shows a wrong state root in this header", |v| number(v).map(Fault::BadHeader)),
    form("bad-changes", "N", "flips a bit in this block's storage changes", |v| {
        number(v).map(Fault::BadChanges)
    }),
    form("bad-justification", "N", "flips a bit in this block's justification", |v| {
        number(v).map(Fault::BadJustification)
    }),
    form("transactions", "swallowed|dropped", "what happens to transactions", |v| {
        transactions(v).map(Fault::Transactions)
    }),
    form("restart", "MS", "the server goes away for so long, once", |v| millis(v).map(Fault::Restart)),
];

impl Fault {
    /// Lists every fault with its value and meaning, a line each.
    #[must_use]
    pub fn forms() -> String {
        let lines = FORMS.iter().map(|form| {
            let equals = if form.value.is_empty() { "" } else { "=" };
            format!("{}{equals}{}: {}", form.name, form.value, form.meaning)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether it holds from the RPC server's next start on.
    #[must_use]
    pub const fn is_of_server(&self) -> bool {
        matches!(self, Self::BatchCalls(_) | Self::AnswerBytes(_) | Self::Connections(_) | Self::Restart(_))
    }

    /// How long the server is away before its next start.
    pub(crate) const fn away(&self) -> Duration {
        match self {
            Self::Restart(away) => *away,
            _ => Duration::ZERO,
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let form = FORMS.iter().find(|form| form.name == name);
        let form = form.ok_or_else(|| format!("{name:?} is no fault; there are\n{}", Self::forms()))?;
        let fault = (form.read)(value).filter(|_| form.value.is_empty() == value.is_empty());
        fault.ok_or_else(|| format!("{text:?}: write {name}={}", form.value))
    }
}

impl Node {
    /// Gives the node a fault, besides those that it has. One [of the server](Fault::is_of_server) holds from its
    /// next start on.
    pub fn inject(&self, fault: &Fault) {
        let faults = self.faults();
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
            // Whoever injects it starts the server again.
            Fault::Restart(_) => {}
        }
        self.set_rpc_limits(limits);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_is_read_and_others_are_refused_in_words() {
        for form in FORMS {
            let values = match form.value {
                "" => vec![""],
                "N" | "MS" => vec!["=7"],
                "METHOD" => vec!["=chain_getBlock"],
                "METHOD:BYTES" => vec!["=chain_getBlock:7"],
                listed => listed.split('|').collect(),
            };
            for value in values {
                let value = value.trim_start_matches('=').replace(":N", ":7");
                let equals = if value.is_empty() { "" } else { "=" };
                let text = format!("{}{equals}{value}", form.name);
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
