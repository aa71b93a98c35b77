//! What a watch tells of a transaction, and what follows from it.

use prb_core::{chain::SubmitProgress, primitives::Hash};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::Instant};

use super::Way;
use crate::rpc::json;

/// What a watch tells (`author_submitAndWatchExtrinsic`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Status {
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

/// What the submitter does then.
pub(super) enum Heeded {
    Nothing,
    Finalised(Hash),
    Lost,
}

impl Way<'_> {
    pub(super) fn submitted(&mut self, progress: &mpsc::Sender<SubmitProgress>) {
        if !self.submitted {
            self.submitted = true;
            // A full channel loses progress, by contract.
            let _ = progress.try_send(SubmitProgress::Submitted { extrinsic: self.prepared.hash });
        }
    }

    pub(super) fn heed(
        &mut self,
        status: Option<Result<Box<RawValue>, serde_json::Error>>,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Heeded {
        let status = status.and_then(Result::ok).and_then(|raw| json::parse::<Status>(raw.get()).ok());
        let Some(status) = status else {
            self.seen = format!("{}, then the watch was lost", self.seen);
            return self.unwatched();
        };
        self.answered = Instant::now();
        self.seen = status.name().into();
        self.future = matches!(status, Status::Future);
        match status {
            Status::Future | Status::Ready | Status::Broadcast(_) => Heeded::Nothing,
            Status::InBlock(block) => {
                self.in_block = true;
                let _ = progress.try_send(SubmitProgress::InBlock { block });
                Heeded::Nothing
            }
            // Its node puts it back into its pool, or not: then it is sent again.
            Status::Retracted(_) => {
                self.in_block = false;
                Heeded::Nothing
            }
            Status::Finalized(block) => {
                self.watch = None;
                Heeded::Finalised(block)
            }
            // The pool has forgotten it, a block may hold it all the same.
            Status::FinalityTimeout(_) | Status::Usurped(_) | Status::Dropped | Status::Invalid => {
                self.unwatched()
            }
        }
    }

    fn unwatched(&mut self) -> Heeded {
        self.watch = None;
        (self.in_block, self.future) = (false, false);
        Heeded::Lost
    }
}

impl Status {
    const fn name(&self) -> &'static str {
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
    fn statuses_are_read_as_nodes_write_them() {
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
            assert_eq!(json::parse::<Status>(&json).unwrap(), status, "{json}");
        }
    }
}
