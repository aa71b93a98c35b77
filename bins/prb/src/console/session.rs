//! Parses the session and pRuntime's info from the JSON text that lifecycle managers send about a worker.

use prb_core::{
    chain::{Session, SessionState, WorkerOnChain},
    primitives::AccountId,
    prpc::{MemoryUsage, PhactoryInfo},
};
use serde_json::Value;

/// The parsed content.
#[derive(Debug, Default)]
pub(super) struct WorkerReport {
    pub(super) chain: Option<WorkerOnChain>,
    pub(super) info: Option<PhactoryInfo>,
}

/// Parses `sessionInfoJson`, whose layout is described in `prb_walkie::manage::state`. Missing or malformed
/// parts are left out.
pub(super) fn read(text: &str, account: &str) -> WorkerReport {
    let Ok(document) = serde_json::from_str::<Value>(text) else { return WorkerReport::default() };
    WorkerReport { chain: session(&document, account), info: document.get("runtimeInfo").and_then(info) }
}

fn session(document: &Value, account: &str) -> Option<WorkerOnChain> {
    let raw = document.get("raw")?;
    let state = match raw.get("state")?.as_str()? {
        "Ready" => SessionState::Ready,
        "WorkerIdle" => SessionState::WorkerIdle,
        "WorkerUnresponsive" => SessionState::WorkerUnresponsive,
        "WorkerCoolingDown" => SessionState::WorkerCoolingDown,
        _ => return None,
    };
    let wide = |pointer: &str| number(raw.pointer(pointer)).unwrap_or_default();
    let long = |pointer: &str| u64::try_from(wide(pointer)).unwrap_or_default();
    let short = |pointer: &str| u32::try_from(wide(pointer)).unwrap_or_default();
    let mut chain = WorkerOnChain::default();
    chain.session = Some(Session {
        account: AccountId::from_address(account).unwrap_or_default(),
        state,
        ve: wide("/ve"),
        v: wide("/v"),
        v_updated_at: long("/vUpdatedAt"),
        p_init: short("/benchmark/pInit"),
        p_instant: short("/benchmark/pInstant"),
        iterations: long("/benchmark/iterations"),
        working_start_time: long("/benchmark/workingStartTime"),
        challenge_time_last: long("/benchmark/challengeTimeLast"),
        cool_down_start: long("/coolDownStart"),
        total_reward: wide("/stats/totalReward"),
        stake: None,
    });
    Some(chain)
}

fn info(value: &Value) -> Option<PhactoryInfo> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let long = |name: &str| number(value.get(name)).and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    let is = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or_default();
    // It is empty before the worker has had a session.
    value.as_object().filter(|fields| !fields.is_empty())?;
    let memory = value.get("memoryUsage").filter(|memory| memory.is_object()).map(|memory| {
        let bytes =
            |name: &str| number(memory.get(name)).and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        MemoryUsage {
            rust_used: bytes("rustUsed"),
            rust_peak_used: bytes("rustPeakUsed"),
            total_peak_used: bytes("totalPeakUsed"),
            ..MemoryUsage::default()
        }
    });
    Some(PhactoryInfo {
        initialized: is("initialized"),
        registered: is("registered"),
        version: text("version"),
        git_revision: text("gitRevision"),
        pending_messages: long("pendingMessages"),
        score: long("score"),
        dev_mode: is("devMode"),
        memory_usage: memory,
        ..PhactoryInfo::default()
    })
}

/// Parses a number, or the decimal or hexadecimal text of one.
fn number(value: Option<&Value>) -> Option<u128> {
    match value? {
        Value::Number(number) => number.as_u128(),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => u128::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_managers_text_is_parsed() {
        let text = r#"{ "state": "WorkerIdle", "raw": { "state": "WorkerIdle",
            "ve": "0x00000000000004d20000000000000000", "v": "0x00000000000004d28000000000000000", "vUpdatedAt": 5,
            "benchmark": { "pInit": 10, "pInstant": 20, "iterations": "0x0010000000000000", "workingStartTime": 7 },
            "coolDownStart": 0, "stats": { "totalReward": 1234567800000000 } },
            "runtimeInfo": { "version": "2.3.0", "gitRevision": "abc", "pendingMessages": "3",
            "memoryUsage": { "rustUsed": 1, "rustPeakUsed": "2", "totalPeakUsed": 3 } } }"#;
        let report = read(text, "");
        let session = report.chain.unwrap().session.unwrap();
        assert_eq!((session.ve >> 64, session.p_init, session.p_instant), (1234, 10, 20));
        assert_eq!((session.iterations, session.total_reward), (1 << 52, 1_234_567_800_000_000));
        let info = report.info.unwrap();
        assert_eq!((&*info.version, info.pending_messages), ("2.3.0", 3));
        assert_eq!(info.memory_usage.unwrap().rust_peak_used, 2);
    }

    #[test]
    fn malformed_texts_give_nothing() {
        for odd in ["", "[]", "{}", r#"{"raw":{"state":"Lost"},"runtimeInfo":{}}"#] {
            let report = read(odd, "x");
            assert!(report.chain.is_none() && report.info.is_none(), "{odd}");
        }
    }
}
