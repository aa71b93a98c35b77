//! The list's page, in parts.

use maud::{Markup, html};
use prb_core::queue::{JobState, Stats, admin::JobRecord};

use super::{
    STATES,
    filter::Found,
    format,
    host::{self, Directory, PageHost},
    job::act_link,
    query::{self, QueryParams, SIZES},
};

/// Shows the number of jobs by state; each count links to its list.
pub(super) fn counts(
    host: &PageHost,
    last: Option<(Stats, u64)>,
    stale: bool,
    here: Option<JobState>,
) -> Markup {
    let number = |state| {
        last.map(|(stats, _)| match state {
            JobState::Waiting => stats.waiting as u64,
            JobState::Delayed => stats.delayed as u64,
            JobState::Active => stats.active as u64,
            JobState::Succeeded => stats.succeeded,
            _ => stats.failed,
        })
    };
    html! {
        div.counts.stale[stale] {
            @for state in STATES {
                @let name = format::state(state);
                @let asked = QueryParams { state: name.into(), ..QueryParams::default() };
                a class={ "count " (name) } id={ "count-" (name) } href=(query::link(host.home(), &asked))
                    aria-current=[(here == Some(state)).then_some("true")] {
                    b { (number(state).map_or_else(|| "–".into(), format::grouped)) }
                    span { (name) }
                }
            }
        }
        @if stale && let Some((_, at)) = last {
            p.small { "Counted at " (format::timestamp(at)) " UTC." }
        }
    }
}

/// Shows the filter. It is not among the parts that update, so that input is not lost.
pub(super) fn filter(host: &PageHost, asked: &QueryParams) -> Markup {
    html! {
        form.filter method="get" action=(host.home()) data-filter autocomplete="off" {
            label {
                "State"
                select name="state" {
                    option value="" { "all" }
                    @for state in STATES.map(format::state) {
                        option value=(state) selected[asked.state == state] { (state) }
                    }
                }
            }
            label { "Pool" input.short name="pool" inputmode="numeric" maxlength="20" placeholder="all" value=(asked.pool); }
            @if host.workers.is_some() {
                label { "Worker" input name="worker" type="search" maxlength="200" placeholder="all" value=(asked.worker); }
            }
            label.wide {
                "Number, action, worker, error or transaction"
                input name="text" type="search" maxlength="200" value=(asked.text);
            }
            label {
                "Rows"
                select name="size" {
                    @for size in SIZES {
                        @let is_default = asked.size.is_empty() && size == 50;
                        option value=(size) selected[asked.size == size.to_string() || is_default] { (size) }
                    }
                }
            }
            button type="submit" { "Show" }
            a.quiet href=(host.home()) { "Show all" }
        }
    }
}

/// Shows the jobs found, or why a search is not possible.
pub(super) fn jobs(
    host: &PageHost,
    asked: &QueryParams,
    found: Result<&Found, &str>,
    known: &Directory,
) -> Markup {
    let found = match found {
        Ok(found) => found,
        Err(refusal) => return html! { p.empty role="alert" { (refusal) } },
    };
    html! {
        (page_range(found))
        @if !found.jobs.is_empty() {
            (table(host.base, &found.jobs, known, true))
        }
        (pager(host, asked, found))
    }
}

/// Shows jobs as rows; selectable if there is a form for it.
pub(super) fn table(base: &str, jobs: &[JobRecord], known: &Directory, can_choose: bool) -> Markup {
    html! {
        table.jobs {
            thead {
                tr {
                    @if can_choose {
                        th.choose scope="col" { input #choose-all type="checkbox" aria-label="Choose all on this page" data-choose="id"; }
                    }
                    @for name in ["Job", "State", "Pool", "Worker", "Action", "Created (UTC)", "Took", "Tries", "Result", "Fee (PHA)", ""] {
                        th scope="col" { (name) }
                    }
                }
            }
            tbody { @for job in jobs { (row(base, job, known, can_choose)) } }
        }
    }
}

/// Shows the actions on the chosen jobs. Not among the parts that update.
pub(super) fn bulk(host: &PageHost) -> Markup {
    html! {
        form.bulk #bulk-form method="get" action={ (host.base) "/confirm" } {
            label {
                "Chosen jobs"
                select #bulk-command name="do" { option value="retry" { "retry" } option value="remove" { "remove" } }
            }
            button #bulk-chosen type="submit" { "For the chosen…" }
        }
    }
}

fn page_range(found: &Found) -> Markup {
    let total = format::grouped(found.total as u64);
    let first = found.offset() + 1;
    html! {
        p.extent {
            @if found.jobs.is_empty() {
                "No job matches the filter."
            } @else {
                b { (format::grouped(first as u64)) "–" (format::grouped((first + found.jobs.len() - 1) as u64)) }
                " of " b { (total) }
            }
            @if let Some((searched, of)) = found.searched {
                " Searched: the newest " (format::grouped(searched as u64)) " of " (format::grouped(of as u64)) " jobs."
            }
        }
    }
}

fn row(base: &str, job: &JobRecord, known: &Directory, can_choose: bool) -> Markup {
    let result = result(job);
    let fee = job.outcome.as_ref().and_then(|outcome| outcome.fee);
    let took = job.ended_ms.map(|ended| format::span(ended.saturating_sub(job.created_ms)));
    html! {
        tr {
            @if can_choose {
                // The form is outside of this part, which is replaced. The script keeps a checked box by its
                // id.
                td.choose { input type="checkbox" form="bulk-form" name="id" value=(job.id) id={ "choose-" (job.id) } aria-label={ "Choose job " (job.id) }; }
            }
            td.job data-label="Job" { a href={ (base) "/jobs/" (job.id) } id={ "job-" (job.id) } { (job.id) } }
            td.state-of data-label="State" { (format::badge(job.state)) }
            td data-label="Pool" { @if let Some(pool) = job.pool { (pool) } @else { "–" } }
            td.of-worker data-label="Worker" { (host::workers(&job.workers, known)) }
            td.action data-label="Action" { (format::action(&job.action)) }
            td.created data-label="Created" { (format::timestamp(job.created_ms)) }
            td.took data-label="Took" { (took.as_deref().unwrap_or("–")) }
            td data-label="Tries" { (job.attempts) }
            td.result.none[result.is_none()] data-label="Result" { (result.unwrap_or_else(|| html! { "–" })) }
            td.fee.none[fee.is_none()] data-label="Fee (PHA)" { @match fee { Some(fee) => (format::amount(fee)), None => "–" } }
            td.acts { @if job.state == JobState::Failed { (act_link(base, job.id, "retry")) } }
        }
    }
}

/// Shows a job's progress or outcome.
fn result(job: &JobRecord) -> Option<Markup> {
    if let Some(outcome) = &job.outcome {
        return Some(format::outcome(outcome));
    }
    if let Some(error) = &job.error {
        return Some(html! { span.bad title=(error) { (first_words(error)) } });
    }
    let progress = job.progress.as_deref().filter(|_| job.state == JobState::Active)?;
    Some(html! { (format::progress(progress)) })
}

/// Returns the start of an error; the whole text is on the job's page.
fn first_words(error: &str) -> String {
    const MAX_CHARS: usize = 120;
    let line = error.lines().next().unwrap_or_default();
    match line.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

fn pager(host: &PageHost, asked: &QueryParams, found: &Found) -> Markup {
    let (page, pages) = (found.page, found.pages());
    let to = |page: usize| query::link(host.home(), &QueryParams { page: page.to_string(), ..asked.clone() });
    let entries = [
        ("first", "« First", 1, page > 1),
        ("previous", "‹ Previous", page.saturating_sub(1), page > 1),
        ("next", "Next ›", page + 1, page < pages),
        ("last", "Last »", pages, page < pages),
    ];
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages of the list" {
                @for (name, text, page, possible) in entries {
                    @if possible { a id={ "page-" (name) } href=(to(page)) { (text) } } @else { span { (text) } }
                    @if name == "previous" {
                        span.here { "Page " (format::grouped(found.page as u64)) " of " (format::grouped(pages as u64)) }
                    }
                }
            }
        }
    }
}
