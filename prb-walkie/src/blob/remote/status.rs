//! Status of providers for display.

use std::time::Duration;

use prb_core::blob::Heights;
use serde::Serialize;
use tokio::time::Instant;

use super::provider::{Kind, Provider};
use crate::{blob::client::Link, provenance::Provenance};

/// A provider's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ProviderState {
    /// Connecting, or no answer yet.
    Connecting,
    /// It can be asked.
    Ready,
    /// There is no connection; it is tried again.
    Down {
        /// The cause.
        reason: String,
    },
    /// It is suspended.
    // The name in the API is older than the word "suspended".
    #[serde(rename = "aside")]
    Suspended {
        /// The cause.
        reason: String,
        /// The remaining time, in ms.
        for_ms: u64,
    },
}

/// A provider's status, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProviderStatus {
    /// Its peer id.
    pub id: String,
    /// The address of its blob server.
    pub address: String,
    /// Whether it is asked, and if not, why.
    #[serde(flatten)]
    pub state: ProviderState,
    /// Whether it knows only the original's keys.
    pub original: bool,
    /// Newest relay block at which it can end a batch.
    pub relay: Option<u32>,
    /// Newest parachain block that it has.
    pub para: Option<u32>,
    /// Average latency of its answers, in ms.
    pub latency_ms: Option<u64>,
    /// Requests that it has answered, missing blobs included.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Answers that a worker refused.
    pub refused: u64,
    /// How it was found, or what it has proved.
    pub provenance: Provenance,
}

pub(super) fn of(provider: &Provider) -> ProviderStatus {
    let state = provider.snapshot();
    let now = Instant::now();
    let record = state.record;
    let suspension = record.suspension.filter(|suspension| suspension.until > now);
    let shown = match (suspension, provider.link()) {
        (Some(suspension), _) => {
            ProviderState::Suspended { reason: suspension.reason, for_ms: millis(suspension.until - now) }
        }
        (None, Link::Down { reason }) => ProviderState::Down { reason: reason.to_string() },
        (None, Link::Up) if state.kind.is_some() => ProviderState::Ready,
        (None, Link::Up | Link::Connecting) => ProviderState::Connecting,
    };
    let Heights { relay, para, .. } = state.heights;
    let candidate = provider.candidate();
    ProviderStatus {
        id: provider.id.to_string(),
        address: candidate.address.to_string(),
        state: shown,
        original: state.kind == Some(Kind::Original),
        relay: relay.map(|number| number.0),
        para: para.map(|number| number.0),
        latency_ms: provider.latency().map(millis),
        answered: record.served,
        failed: record.failed,
        refused: record.refused,
        provenance: candidate.provenance,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
