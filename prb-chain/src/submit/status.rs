//! Decodes the status of a submitted transaction (`author_submitAndWatchExtrinsic`).

use prb_core::primitives::Hash;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::rpc::json;

/// A transaction's status at one node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Status {
    Future,
    Ready,
    Broadcast(Vec<String>),
    InBlock(Hash),
    Retracted(Hash),
    FinalityTimeout(Hash),
    Finalized(Hash),
    Usurped(Hash),
    Dropped,
    Invalid,
}

impl Status {
    /// Decodes a status; `None` if the subscription has ended or the status is unknown.
    pub(super) fn read(message: Option<Result<Box<RawValue>, serde_json::Error>>) -> Option<Self> {
        json::parse(message?.ok()?.get()).ok()
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::Ready => "ready",
            Self::Broadcast(_) => "broadcast",
            Self::InBlock(_) => "in a block",
            Self::Retracted(_) => "retracted",
            Self::FinalityTimeout(_) => "not final in time",
            Self::Finalized(_) => "final",
            Self::Usurped(_) => "usurped",
            Self::Dropped => "dropped",
            Self::Invalid => "invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn statuses_are_decoded() {
        let hash = Hash([0xab; 32]);
        for (json, status) in [
            (r#""ready""#.to_owned(), Status::Ready),
            (r#"{"broadcast":["peer"]}"#.to_owned(), Status::Broadcast(vec!["peer".into()])),
            (format!(r#"{{"inBlock":"{hash}"}}"#), Status::InBlock(hash)),
            (format!(r#"{{"retracted":"{hash}"}}"#), Status::Retracted(hash)),
            (format!(r#"{{"usurped":"{hash}"}}"#), Status::Usurped(hash)),
            (format!(r#"{{"finalized":"{hash}"}}"#), Status::Finalized(hash)),
            (format!(r#"{{"finalityTimeout":"{hash}"}}"#), Status::FinalityTimeout(hash)),
            (r#""dropped""#.to_owned(), Status::Dropped),
            (r#""invalid""#.to_owned(), Status::Invalid),
        ] {
            let message = RawValue::from_string(json).unwrap();
            assert_eq!(Status::read(Some(Ok(message))), Some(status));
        }
        let garbled = RawValue::from_string("[]".into()).unwrap();
        assert_eq!(Status::read(Some(Ok(garbled))), None);
        assert_eq!(Status::read(None), None);
    }
}
