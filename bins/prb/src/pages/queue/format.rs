//! Formats states, times and results.

use jiff::Timestamp;
use maud::{Markup, html};
use prb_core::{
    primitives::{Balance, PHA_DECIMALS},
    queue::{CallOutcome, JobOutcome, JobState},
};

/// Number of shown decimals of an amount.
const SHOWN_DECIMALS: u32 = 4;

/// Formats an amount without its unit, truncated to four decimals: `1,200.5`.
pub(crate) fn amount(value: Balance) -> String {
    let unit = 10u128.pow(PHA_DECIMALS);
    let (whole, part) = (value / unit, value % unit / 10u128.pow(PHA_DECIMALS - SHOWN_DECIMALS));
    let whole = u64::try_from(whole).map_or_else(|_| whole.to_string(), grouped);
    match format!("{part:04}").trim_end_matches('0') {
        // A tiny amount is not shown as 0.
        "" if whole == "0" && value > 0 => "0.0001".to_owned(),
        "" => whole,
        part => format!("{whole}.{part}"),
    }
}

/// Formats `1,200.5 PHA` with a space that does not break.
pub(crate) fn pha(value: Balance) -> String {
    format!("{}\u{a0}PHA", amount(value))
}

pub(crate) const fn state(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Delayed => "delayed",
        JobState::Active => "active",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        _ => "unknown",
    }
}

/// Shows a state as a coloured word.
pub(crate) fn badge(of: JobState) -> Markup {
    let name = state(of);
    html! { span class={ "state " (name) } { (name) } }
}

/// Shows an action's name, which may be wrapped between its parts.
pub(crate) fn action(name: &str) -> Markup {
    html! {
        @for (at, word) in name.split("::").enumerate() {
            @if at > 0 { "::" wbr; }
            (word)
        }
    }
}

/// Translates the original's progress codes of a trader; others stay unchanged.
pub(crate) fn progress(word: &str) -> &str {
    match word {
        "RP_INIT" => "taken",
        "RP_PREPROCESSED" => "in a batch",
        "RP_WORKING" => "sent",
        "RP_FINISHED" => "finished",
        "RP_FAILED" => "failed",
        "RP_SHOULD_RETRY" => "will be retried",
        other => other,
    }
}

/// Formats a time in UTC, to the second.
pub(crate) fn timestamp(ms: u64) -> Markup {
    match i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(at) => {
            let text = format!("{at:.3}");
            html! { time datetime=(text) { (text.get(..19).unwrap_or(&text).replace('T', " ")) } }
        }
        None => html! { "–" },
    }
}

/// Formats a duration with a fitting unit and a space that does not break.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms}\u{a0}ms"),
        1000..60_000 => format!("{}.{}\u{a0}s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{}\u{a0}min\u{a0}{}\u{a0}s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{}\u{a0}h\u{a0}{}\u{a0}min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// Formats a number with thousands separators.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Shows the outcome of a call.
pub(crate) fn call(outcome: &CallOutcome) -> Markup {
    match outcome {
        CallOutcome::Done => html! { "done" },
        CallOutcome::AlreadyDone => html! { "already done, not sent" },
        CallOutcome::Failed(name) => html! { span.bad { "failed: " (name) } },
        _ => html! { "unknown" },
    }
}

/// Shows the outcome of a job's calls, in one line.
pub(crate) fn outcome(outcome: &JobOutcome) -> Markup {
    let failed = outcome.calls.iter().filter_map(CallOutcome::error).collect::<Vec<_>>();
    html! {
        "block " (grouped(outcome.block.0.into()))
        @if outcome.extrinsic.is_none() { ", nothing had to be sent" }
        @if let Some(first) = failed.first() {
            br;
            span.bad {
                @if outcome.calls.len() > 1 { (failed.len()) " of " (outcome.calls.len()) " calls failed: " }
                (first)
            }
        }
    }
}

/// Formats an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let below = std::iter::successors(error.source(), |error| error.source());
    below.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

/// Capitalises a text and adds a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_formatted() {
        let text = timestamp(1_700_000_000_123).into_string();
        assert_eq!(text, r#"<time datetime="2023-11-14T22:13:20.123Z">2023-11-14 22:13:20</time>"#);
        assert_eq!(timestamp(u64::MAX).into_string(), "–");
        let spans = [0, 999, 1_234, 61_000, 3_660_000].map(|ms| span(ms).replace('\u{a0}', " "));
        assert_eq!(spans, ["0 ms", "999 ms", "1.2 s", "1 min 1 s", "1 h 1 min"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn errors_become_sentences() {
        let io = std::io::Error::other("refused");
        let error = prb_core::queue::Error::Unavailable(Box::new(io));
        assert_eq!(sentence(&chain(&error)), "The queue is unavailable: refused.");
        assert_eq!(sentence(""), "");
    }
}
