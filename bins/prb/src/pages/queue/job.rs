//! One job's page: the part that changes, and its content.

use maud::{Markup, html};
use prb_core::queue::{
    JobId, JobOutcome, JobState,
    admin::{JobDetail, JobRecord, Step},
};
use serde_json::Value;

use super::{
    format,
    host::{self, Directory, PageHost},
};

/// Maximum length of a job's data that is shown, in characters.
const MAX_DATA_CHARS: usize = 20_000;

/// Links to the preview of an action on it.
pub(super) fn act_link(base: &str, id: JobId, action: &str) -> Markup {
    html! {
        a.button id={ (action) "-" (id) } href={ (base) "/confirm?do=" (action) "&id=" (id) } {
            @if action == "retry" { "Retry…" } @else { "Remove…" }
        }
    }
}

/// Shows the part that updates.
pub(super) fn state(host: &PageHost, record: &JobRecord, known: &Directory) -> Markup {
    let base = host.base;
    html! {
        div.title {
            h1 { "Job " (record.id) " " (format::badge(record.state)) }
            div.acts {
                @if record.state == JobState::Failed { (act_link(base, record.id, "retry")) }
                (act_link(base, record.id, "remove"))
            }
        }
        dl.facts {
            (fact("Pool", &html! { @if let Some(pool) = record.pool { (pool) } @else { "–" } }))
            (fact("Worker", &host::workers(&record.workers, known)))
            (fact("Action", &format::action(&record.action)))
            (fact("Created (UTC)", &format::timestamp(record.created_ms)))
            @if let Some(ended) = record.ended_ms {
                (fact("Ended (UTC)", &html! {
                    (format::timestamp(ended)) ", after " (format::span(ended.saturating_sub(record.created_ms)))
                }))
            }
            (fact("Delivered", &html! { (record.attempts) @if record.attempts == 1 { " time" } @else { " times" } }))
            (fact("Retries left", &html! { (record.retries_left) }))
            @if let Some(word) = &record.progress { (fact("Progress", &html! { (format::progress(word)) })) }
            @if let Some(outcome) = &record.outcome {
                (fact("Block", &html! { (format::grouped(outcome.block.0.into())) }))
                @if let Some(fee) = outcome.fee { (fact("Fee of its transaction", &html! { (format::pha(fee)) })) }
                div.wide {
                    dt { "Transaction" }
                    dd {
                        @match outcome.extrinsic {
                            Some(hash) => { code { (hash) } }
                            None => { "none: nothing had to be sent" }
                        }
                    }
                }
            }
        }
        @if let Some(error) = &record.error {
            h2 { @if record.state == JobState::Failed { "Error" } @else { "Error of the last attempt" } }
            pre.bad { (error) }
        }
        h2 { "Result for its submitter" }
        (outcome(record))
        h2 { "History" }
        (history(&record.history))
    }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn outcome(record: &JobRecord) -> Markup {
    match (record.state, &record.outcome) {
        (_, Some(outcome)) => results(outcome),
        (JobState::Succeeded, None) => html! {
            p { "It is done. The program that completed it reported no results of its calls." }
        },
        (JobState::Failed, None) => html! {
            p { "It failed: " (record.error.as_deref().unwrap_or("no reason was given")) }
        },
        _ => html! { p { "Nothing yet." } },
    }
}

fn results(outcome: &JobOutcome) -> Markup {
    html! {
        p { "Done; views of the chain from block " (format::grouped(outcome.block.0.into())) " on include it." }
        ol.calls { @for result in &outcome.calls { li { (format::call(result)) } } }
    }
}

/// Shows steps with the time since the previous step.
fn history(steps: &[Step]) -> Markup {
    let before = std::iter::once(None).chain(steps.iter().map(Some));
    html! {
        table.history {
            thead { tr { th scope="col" { "At (UTC)" } th scope="col" { "After" } th scope="col" { "State" } th scope="col" { "Note" } } }
            tbody {
                @for (step, before) in steps.iter().zip(before) {
                    tr {
                        td data-label="At" { (format::timestamp(step.at_ms)) }
                        td data-label="After" {
                            @match before {
                                Some(before) => (format::span(step.at_ms.saturating_sub(before.at_ms))),
                                None => "–",
                            }
                        }
                        td data-label="State" { (format::badge(step.state)) }
                        td.result data-label="Note" { (step.note.as_deref().unwrap_or_default()) }
                    }
                }
            }
        }
    }
}

/// Shows the part that never changes: its calls and its data.
pub(super) fn content(detail: &JobDetail) -> Markup {
    let JobDetail { calls, data, .. } = detail;
    html! {
        section {
            h2 { "Calls" }
            @if calls.is_empty() {
                p { "They cannot be decoded; another program may have written them." }
            } @else {
                ol.calls { @for call in calls { li { (call) } } }
            }
            @if !data.is_null() { (shown(data)) }
        }
    }
}

fn shown(data: &Value) -> Markup {
    let mut text = format!("{data:#}");
    let all = text.chars().count();
    // At a boundary: `truncate` panics within a character.
    if let Some((at, _)) = text.char_indices().nth(MAX_DATA_CHARS) {
        text.truncate(at);
    }
    html! {
        details {
            summary { "Data in the queue, without the sealed key" }
            @if all > MAX_DATA_CHARS {
                p.small { "The first " (format::grouped(MAX_DATA_CHARS as u64)) " of " (format::grouped(all as u64)) " characters." }
            }
            pre { (text) }
        }
    }
}

/// Shows that the job does not exist.
pub(super) fn unknown_job(id: JobId) -> Markup {
    html! {
        h1 { "Job " (id) }
        p.empty { "The queue has no job with that number." }
    }
}
