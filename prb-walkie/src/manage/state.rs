//! A worker's status in the wire's format.
//!
//! # `session_info_json`
//! JSON text indented by two spaces. Without a session on chain it contains only `runtimeInfo`:
//!
//! ```text
//! {
//!   "state": "WorkerIdle",                      Ready, WorkerIdle, WorkerUnresponsive, WorkerCoolingDown
//!   "ve": "1234.00000000",                      U64F64 bits ÷ 2^64, 8 decimals
//!   "v": "1234.56789012",
//!   "vUpdatedAt": "1,652,349,600",              numbers for people: texts, grouped by thousands
//!   "benchmark": { "pInit", "pInstant", "iterations", "workingStartTime", "challengeTimeLast" },
//!   "coolDownStart": "0",
//!   "stats": { "totalReward": "1,234.5678 PHA" },
//!   "raw": {                                    the same fields as the chain has them: numbers up to 52 bits,
//!     "state": "WorkerIdle",                    larger ones as 0x and all digits of their type
//!     "ve": "0x00000000000004d20000000000000000",
//!     …
//!     "stats": { "totalReward": 1234567800000000 }
//!   },
//!   "runtimeInfo": { … }                        pRuntime's info, in lowerCamelCase; {} before there was any
//! }
//! ```
//! This is polkadot.js's rendering of the session, which the original passes on; only its unit prefixes
//! (`1.2345 kPHA`) are left out of `totalReward`.

use std::time::SystemTime;

use jiff::Timestamp;
use prb_core::{
    primitives::PHALA_SS58_PREFIX,
    worker::{State, WorkerStatus},
};

use super::{convert, session};
use crate::proto;

/// Converts a worker's status to the wire's message.
pub fn worker_state(status: &WorkerStatus) -> proto::WorkerState {
    let session = status.chain.as_ref().and_then(|chain| chain.session.as_ref());
    proto::WorkerState { session_info_json: session::json(session, status.info.as_deref()), ..brief(status) }
}

/// As [`worker_state`] without `session_info_json`, for callers that get its content in the
/// [detail](super::detail).
pub(super) fn brief(status: &WorkerStatus) -> proto::WorkerState {
    let position = status.position;
    let session = status.chain.as_ref().and_then(|chain| chain.session.as_ref());
    proto::WorkerState {
        status: label(status.state).into(),
        parent_header_synched_to: height(position.and_then(|at| at.relay_synced_to()).map(|n| n.0)),
        para_header_synched_to: height(position.and_then(|at| at.para_synced_to()).map(|n| n.0)),
        para_block_dispatched_to: height(position.and_then(|at| at.dispatched_to()).map(|n| n.0)),
        initialized: status.info.as_ref().is_some_and(|info| info.initialized),
        worker: Some(convert::worker(&status.worker)),
        // Without `0x`, as pRuntime returns it and the original passes it on.
        public_key: status.public_key.map(|key| hex::encode(key.0)).unwrap_or_default(),
        last_message: message(status.message_at, &status.message),
        session_info_json: String::new(),
        worker_account_id: session.map(|s| s.account.to_ss58(PHALA_SS58_PREFIX)).unwrap_or_default(),
    }
}

fn label(state: State) -> proto::WorkerStatus {
    use proto::WorkerStatus as Label;
    match state {
        State::Idle => Label::Idle,
        State::Starting => Label::Starting,
        State::Synching => Label::Synching,
        State::Synched => Label::Synched,
        State::PreActive => Label::PreActive,
        State::Active => Label::Active,
        State::Kicked => Label::Kicked,
        State::Error => Label::Error,
    }
}

/// The number, or -1 for none.
fn height(number: Option<u32>) -> i32 {
    // The field is signed in the original.
    number.map_or(-1, |number| i32::try_from(number).unwrap_or(i32::MAX))
}

/// Formats a message as `[2022-05-12T10:00:00+00:00] text`, in UTC.
fn message(at: SystemTime, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    // Fails only for clocks beyond the years -9999 to 9999.
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("[{}] {text}", at.strftime("%Y-%m-%dT%H:%M:%S+00:00"))
}
