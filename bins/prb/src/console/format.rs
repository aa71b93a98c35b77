//! Formats amounts, times, states and reasons, and parses the remedies in `docs/worker-states.md`.

use std::{
    collections::HashMap,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use maud::{Markup, html};
use prb_core::{
    chain::SessionState,
    inventory::Goal,
    primitives::{Balance, PHA_DECIMALS, ParseError, parse_amount},
    worker::{EventKind, InFlight, State},
};

pub(super) use crate::pages::queue::format::{amount, chain, grouped, pha, sentence};

/// Formats an amount for a form, with all decimals and without thousands separators: `1200.5`.
pub(super) fn plain_amount(value: Balance) -> String {
    let unit = 10u128.pow(PHA_DECIMALS);
    let part = format!("{:012}", value % unit);
    match part.trim_end_matches('0') {
        "" => (value / unit).to_string(),
        part => format!("{}.{part}", value / unit),
    }
}

/// Parses an amount in PHA.
///
/// # Errors
///
/// The required form of an amount.
pub(super) fn read_amount(text: &str) -> Result<Balance, String> {
    parse_amount(&format!("{} PHA", text.trim())).map_err(|error| match error {
        // The form shows the unit beside the field.
        ParseError::AmbiguousAmount { whole, .. } => {
            format!("The stake {whole}.000 can be read in two ways: write {whole} or {whole}000.")
        }
        _ => {
            "The stake must be an amount in PHA such as 1500 or 1500.25, with at most 12 decimals.".to_owned()
        }
    })
}

/// Formats a time in UTC, to the second.
pub(super) fn timestamp(at: SystemTime) -> Markup {
    match Timestamp::try_from(at) {
        Ok(at) => {
            let text = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            html! { time datetime=(text) { (text.trim_end_matches('Z').replace('T', " ")) } }
        }
        Err(_) => html! { "–" },
    }
}

/// Formats seconds since the Unix epoch; 0 means none.
pub(super) fn timestamp_secs(secs: u64) -> Markup {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs)) {
        Some(at) if secs > 0 => timestamp(at),
        _ => html! { "–" },
    }
}

/// Formats a number, or a dash.
pub(super) fn number(value: Option<impl Into<u64>>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| grouped(value.into()))
}

/// Formats a count: `1 worker`, `1,000 workers`.
pub(super) fn count(number: usize, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", grouped(number as u64))
}

/// Formats memory in MiB.
pub(super) fn mib(bytes: u64) -> String {
    format!("{}\u{a0}MiB", grouped(bytes / (1024 * 1024)))
}

/// Formats U64F64 bits with four decimals.
pub(super) fn fixed(bits: u128) -> String {
    let fraction = bits & u128::from(u64::MAX);
    let scaled = (fraction * 10_000) >> 64;
    format!("{}.{scaled:04}", grouped((bits >> 64) as u64))
}

/// Returns a state's CSS class.
pub(super) const fn css_class(state: State) -> &'static str {
    match state {
        State::Active => "succeeded",
        State::Error => "failed",
        State::Starting | State::Kicked | State::PreActive => "waiting",
        State::Synching | State::Synched => "active",
        State::Idle => "idle",
    }
}

/// Shows a worker's state as a coloured word.
pub(super) fn badge(state: State) -> Markup {
    html! { span class={ "state " (css_class(state)) } { (state.as_str()) } }
}

/// Returns a session's state as text.
pub(super) const fn session(state: SessionState) -> &'static str {
    match state {
        SessionState::Ready => "Ready",
        SessionState::WorkerIdle => "WorkerIdle",
        SessionState::WorkerUnresponsive => "WorkerUnresponsive",
        SessionState::WorkerCoolingDown => "WorkerCoolingDown",
    }
}

/// Returns a worker's goal as text.
pub(super) const fn goal(goal: Goal) -> &'static str {
    match goal {
        Goal::Compute => "compute",
        Goal::Stop => "stop",
        Goal::StayStopped => "stay stopped",
        Goal::Reclaim => "reclaim, then stay stopped",
        Goal::StartAgain => "reclaim, then start again",
        Goal::LeavePool => "reclaim and leave its pool",
        _ => "unknown",
    }
}

/// Shows the operation in flight, its stage and the start of the stage.
pub(super) fn in_flight(of: &InFlight) -> Markup {
    html! { (of.operation) ", " (of.stage.as_str()) " since " (timestamp(of.since)) }
}

/// Describes an event in a sentence.
pub(super) fn event(kind: &EventKind) -> Markup {
    html! {
        @match kind {
            EventKind::State { before, after, message, .. } => {
                (badge(*before)) " → " (badge(*after)) " " (message)
            }
            EventKind::Commanded(command) => { "Command: " b { (command.as_str()) } }
            EventKind::Edited => "Its entry or its pool's was edited.",
            EventKind::Initialised => "It was initialised.",
            EventKind::LostState => { span.bad { "It answers, but its state is lost." } }
            EventKind::KeyChanged { last, now } => {
                span.bad { "A different key answers: " code { (now) } ", previously " code { (last) } }
            }
            EventKind::Goal { before, after } => { "Goal: " (goal(*before)) " → " b { (goal(*after)) } }
            EventKind::OperationSent { operation } => { (operation) ": submitted to the trader" }
            EventKind::OperationWithdrawn { operation } => {
                (operation) ": taken back from the queue, because it is not wanted any more"
            }
            EventKind::OperationDone { operation, block, extrinsic } => {
                (operation) ": took effect in block " (grouped(block.0.into()))
                @if let Some(hash) = extrinsic { ", transaction " code { (hash) } }
            }
            EventKind::OperationFailed { operation, error } => { (operation) ": " span.bad { (error) } }
            EventKind::Checkpoint(Ok(block)) => { "Checkpoint written at block " (grouped(block.0.into())) "." }
            EventKind::Checkpoint(Err(error)) => { "No checkpoint: " span.bad { (error) } }
            EventKind::Stalled => { span.bad { "It has made no progress for a long time although more blocks are available." } }
            EventKind::Panicked { text } => { span.bad { "Its task panicked and was restarted: " (text) } }
            _ => "An event that this version does not know.",
        }
    }
}

/// The cause of a reason, and its remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remedy {
    pub(super) cause: &'static str,
    pub(super) remedy: &'static str,
}

/// Returns the cause and the remedy of a reason from the documentation.
pub(super) fn remedy(reason: &str) -> Option<Remedy> {
    static REMEDIES: LazyLock<HashMap<&'static str, Remedy>> = LazyLock::new(|| {
        // From the document itself, so that the pages and the documentation agree.
        let rows = include_str!("../../../../docs/worker-states.md").lines();
        rows.filter_map(|row| {
            let mut cells = row.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
            let code = cells.next()?.strip_suffix('`')?;
            Some((code, Remedy { cause: cells.next()?, remedy: cells.next()? }))
        })
        .collect()
    });
    REMEDIES.get(reason).copied()
}

/// Renders text with its `code` spans.
pub(super) fn marked(text: &str) -> Markup {
    html! {
        // Every second piece is between backticks.
        @for (at, piece) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::worker::Reason;

    use super::*;
    use crate::readiness::Trouble;

    const PHA: u128 = 1_000_000_000_000;

    #[test]
    fn every_reason_has_a_cause_and_a_remedy() {
        let troubles = [Trouble::Unresponsive, Trouble::Stalled, Trouble::Overdue].map(Trouble::code);
        let codes = Reason::CODES.iter().copied().chain(troubles.into_iter().flatten());
        let missing: Vec<_> = codes.filter(|code| remedy(code).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(remedy("pool-full").unwrap().remedy.contains("another pool"));
        assert_eq!(remedy("reason"), None);
    }

    #[test]
    fn formatted_amounts_parse_back() {
        for (text, value) in
            [("0", 0), ("1500", 1500 * PHA), ("1.5", PHA + PHA / 2), ("0.000000000001", 1), ("7.", 7 * PHA)]
        {
            assert_eq!(read_amount(text), Ok(value), "{text}");
            assert_eq!(read_amount(&plain_amount(value)), Ok(value));
        }
        for bad in ["", "-1", "+1", "1,000", "1e3", ".5", "1.0000000000001", "1.2.3", &"9".repeat(40)] {
            assert!(read_amount(bad).is_err(), "{bad}");
        }
        assert!(read_amount("30.000").unwrap_err().contains("write 30 or 30000"));
        assert_eq!(amount(1234 * PHA + PHA / 4), "1,234.25");
        assert_eq!(amount(1), "0.0001");
    }

    #[test]
    fn numbers_of_the_chain_are_readable() {
        assert_eq!(fixed((1234 << 64) | (1 << 63)), "1,234.5000");
        assert_eq!(
            timestamp_secs(1_700_000_000).into_string(),
            r#"<time datetime="2023-11-14T22:13:20Z">2023-11-14 22:13:20</time>"#
        );
        assert_eq!(timestamp_secs(0).into_string(), "–");
    }
}
