//! Classifies a worker's refusals: whether they are about the content of the data sent.

use crate::{
    blob::{RefusedData, Span},
    primitives::ParaNumber,
    pruntime::Error,
};

/// Prefixes of pRuntime's error texts that reject the content sent. All others are about the worker: its
/// position (`BlockNumberMismatch`, `NoStateRoot`, `RelaychainHeaderNotSynced`), another call in flight (`RCU
/// in progress`), or its initialisation. Source: pRuntime's error texts, 2.x.
const CONTENT: [&str; 6] = [
    "MissingJustification",
    "HeaderValidateFailed",
    "HeaderHashMismatch",
    "StorageProofFailed",
    "StateRootMismatch",
    "DecodeError",
];
/// pRuntime's status for a body that it cannot decode.
const BAD_REQUEST: u16 = 400;

/// Returns the worker's error text if it refused the bytes because of their content.
pub(super) fn content(error: &Error) -> Option<&str> {
    match error {
        Error::Refused { status, message, .. } => {
            let named = CONTENT.iter().any(|text| message.starts_with(text));
            (*status == BAD_REQUEST || named).then_some(message)
        }
        _ => None,
    }
}

/// Builds the refusal of blocks. A block number that is not among those sent is ignored: the worker's text is
/// not trusted.
pub(super) fn blocks(blocks: Span<ParaNumber>, message: &str) -> RefusedData {
    let at = mismatch_at(message).filter(|at| (blocks.first..=blocks.last).contains(at));
    RefusedData::Blocks { blocks, at, message: message.to_owned() }
}

/// Parses `N` of `StateRootMismatch block=N expected=0x… actual=0x…`.
fn mismatch_at(message: &str) -> Option<ParaNumber> {
    let number = message.strip_prefix("StateRootMismatch block=")?.split_whitespace().next()?;
    number.parse().ok().map(ParaNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> Error {
        Error::Refused { method: "DispatchBlocks", status, message: message.to_owned() }
    }

    #[test]
    fn only_errors_about_the_sent_content_count() {
        for text in [
            "MissingJustification",
            "HeaderValidateFailed(error decoding justification for header)",
            "HeaderHashMismatch",
            "StorageProofFailed(storage value mismatch)",
            "StateRootMismatch block=7 expected=0x01 actual=0x02",
        ] {
            assert_eq!(content(&refused(500, text)), Some(text));
        }
        assert!(content(&refused(400, "DecodeError(unexpected end)")).is_some());
        assert!(content(&refused(400, "whatever")).is_some());
        for text in [
            "BlockNumberMismatch",
            "NoStateRoot",
            "RelaychainHeaderNotSynced",
            "RCU in progress, please try the request again later",
            "Uninitialized",
            "",
        ] {
            assert_eq!(content(&refused(500, text)), None, "{text:?}");
        }
        assert_eq!(content(&refused(413, "too large")), None);
        let slow = Error::TimedOut { method: "DispatchBlocks", limit: std::time::Duration::ZERO };
        assert_eq!(content(&slow), None);
    }

    #[test]
    fn the_block_is_read_from_the_text_and_must_be_one_that_was_sent() {
        let sent = Span { first: ParaNumber(5), last: ParaNumber(9) };
        let at = |message: &str| match blocks(sent, message) {
            RefusedData::Blocks { at, .. } => at.map(|at| at.0),
            _ => unreachable!(),
        };
        assert_eq!(at("StateRootMismatch block=7 expected=0x01 actual=0x02"), Some(7));
        assert_eq!(at("StateRootMismatch block=9"), Some(9));
        for text in [
            "StateRootMismatch block=4 expected=0x01 actual=0x02",
            "StateRootMismatch block=10 expected=0x01 actual=0x02",
            "StateRootMismatch block=-7",
            "StateRootMismatch block=99999999999",
            "StateRootMismatch block=",
            "StateRootMismatch",
            "DecodeError(block=7)",
        ] {
            assert_eq!(at(text), None, "{text:?}");
        }
    }
}
