//! Classifies nodes' error answers.

use super::Error;

/// Error codes of polkadot-sdk and of its JSON-RPC server, jsonrpsee.
mod code {
    pub(super) const METHOD_NOT_FOUND: i32 = -32601;
    pub(super) const TOO_MANY_SUBSCRIPTIONS: i32 = -32006;
    pub(super) const OVERSIZED_REQUEST: i32 = -32007;
    pub(super) const OVERSIZED_RESPONSE: i32 = -32008;
    pub(super) const SERVER_IS_BUSY: i32 = -32009;
    /// sc-rpc-server's rate limit.
    pub(super) const RATE_LIMIT: i32 = -32999;
}

/// The reason of a node's refusal, by its code and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not have the method, or does not offer it to outside callers.
    NoMethod,
    /// The answer exceeds the node's limit.
    AnswerTooLarge,
    /// The request exceeds the node's limit.
    RequestTooLarge,
    /// Too many calls or subscriptions, or the node is busy.
    Limited,
    /// It has pruned the state of the requested block.
    StatePruned,
}

impl Refusal {
    /// Classifies a JSON-RPC error.
    pub fn of(code: i32, message: &str) -> Option<Self> {
        let message = message.to_ascii_lowercase();
        let says = |text: &str| message.contains(text);
        Some(match code {
            code::METHOD_NOT_FOUND => Self::NoMethod,
            code::OVERSIZED_RESPONSE => Self::AnswerTooLarge,
            code::OVERSIZED_REQUEST => Self::RequestTooLarge,
            code::SERVER_IS_BUSY | code::RATE_LIMIT | code::TOO_MANY_SUBSCRIPTIONS => Self::Limited,
            // By text: the code is the method's own (4003 of `state_*`, 10000 of `pha_*`).
            _ if says("state already discarded") || says("state pruned") || says("statedatabase") => {
                Self::StatePruned
            }
            _ if says("response is too big") => Self::AnswerTooLarge,
            _ if says("unsafe") => Self::NoMethod,
            _ => return None,
        })
    }

    /// What the node's operator can do about it.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::NoMethod => "use a node that offers it (--rpc-methods for unsafe methods)",
            Self::AnswerTooLarge => "raise --rpc-max-response-size on the node",
            Self::RequestTooLarge => "raise --rpc-max-request-size on the node",
            Self::Limited => {
                "raise --rpc-rate-limit, --rpc-max-subscriptions-per-connection or use another node"
            }
            Self::StatePruned => "use an archive node (--state-pruning archive)",
        }
    }
}

/// The suffix of an error's text; empty if no advice is known.
pub(super) fn advice(code: i32, message: &str) -> String {
    Refusal::of(code, message).map_or_else(String::new, |refusal| format!(": {}", refusal.advice()))
}

impl Error {
    /// The meaning of the node's error answer, if it is known.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Call { code, message, .. } => Refusal::of(*code, message),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_flag_to_raise() {
        let cases = [
            (-32008, "Response is too big: \"Exceeded max limit of 15728640\"", "--rpc-max-response-size"),
            (-32007, "Request is too big", "--rpc-max-request-size"),
            (-32999, "RPC rate limit exceeded", "--rpc-rate-limit"),
            (
                4003,
                "Client error: Api called for an unknown Block: State already discarded for 0x01",
                "archive",
            ),
            (-32601, "Method not found", "--rpc-methods"),
        ];
        for (code, message, flag) in cases {
            let error =
                Error::Call { node: "n:1".into(), method: "m".into(), code, message: message.to_owned() };
            assert!(error.to_string().contains(flag), "{error}");
        }
        assert_eq!(advice(4001, "Client error: UnknownBlock"), "");
    }
}
