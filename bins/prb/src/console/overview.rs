//! The first page: what needs attention of the daemon and of its workers, the fleet by state, stakes and balances, and the heights of
//! the chain data.

use std::collections::BTreeMap;

use maud::{Markup, html};
use prb_core::{chain::SessionState, primitives::Balance, queue::Stats, worker::State};

use super::{
    chain_data,
    charts::charts,
    context::Context,
    format,
    history::Span,
    list::ListQuery,
    live::Part,
    view::{FleetView, Tip, WorkerView},
};
use crate::readiness::{self, Trouble};

/// The largest lag of a worker that counts as at the tip.
const AT_TIP: u32 = 4;
/// Upper bounds of the lag groups.
const LAGS: [(u32, &str); 4] =
    [(AT_TIP, "at the tip"), (64, "5 to 64"), (1000, "65 to 1,000"), (u32::MAX, "over 1,000")];

pub(super) fn parts(context: &Context, fleet: &FleetView, span: Span) -> Vec<Part> {
    let total = fleet.workers.len();
    let head = html! {
        div.title {
            h1 { "Fleet" }
            p.small { (format::count(total, "worker")) " in " (format::count(fleet.pools.len(), "pool")) }
        }
        @for note in &fleet.notes { p.notice { (note) } }
    };
    vec![
        Part::new("head", head),
        Part::new("states", states(context, fleet)),
        not_ready(fleet),
        attention(context, fleet),
        Part::new("money", money(context, fleet)),
        Part::new("progress", progress(fleet)),
        Part::new(
            "charts",
            context.history().map_or_else(|| html! {}, |history| charts(context, history, span)),
        ),
    ]
}

fn states(context: &Context, fleet: &FleetView) -> Markup {
    let counts = State::ALL.map(|state| (state, fleet.workers.iter().filter(|w| w.state == state).count()));
    let path = format!("{}/workers", context.base);
    html! {
        @if fleet.workers.is_empty() {
            p.empty {
                "No workers yet."
                @if context.fleet().is_ok_and(|fleet| fleet.read_only().is_none()) {
                    " " a href={ (context.base) "/pools/new" } { "Add a pool" } ", then "
                    a href={ (context.base) "/workers/new" } { "a worker" } "."
                }
            }
        } @else {
            (bar(&counts))
            div.counts {
                @for (state, count) in counts.into_iter().rev().filter(|(_, count)| *count > 0) {
                    @let query = ListQuery { state: Some(state), ..ListQuery::default() };
                    a class={ "count " (format::css_class(state)) } id={ "count-" (state.as_str()) } href=(query.link(&path)) {
                        b { (format::grouped(count as u64)) }
                        span { (state.as_str()) }
                    }
                }
            }
        }
    }
}

/// Shows the states as one bar, with widths by share.
fn bar(counts: &[(State, usize)]) -> Markup {
    const WIDTH: usize = 1000;
    let total: usize = counts.iter().map(|(_, count)| count).sum();
    // Widths from running totals, so that rounding errors do not add up.
    let shares = counts.iter().rev().filter(|(_, count)| *count > 0).scan(0, |from, (state, count)| {
        let start = *from * WIDTH / total;
        *from += count;
        // Not narrower than 4, so that a single worker of a large fleet is visible.
        Some((*state, start, (*from * WIDTH / total).saturating_sub(start).max(4)))
    });
    html! {
        svg.bar viewBox="0 0 1000 12" preserveAspectRatio="none" aria-hidden="true" {
            @for (state, start, width) in shares {
                rect class=(format::css_class(state)) x=(start) y="0" width=(width) height="12" {}
            }
        }
    }
}

/// Shows why the daemon is not ready, each reason with its remedy.
fn not_ready(fleet: &FleetView) -> Part {
    let is_calm =
        fleet.not_ready.is_empty() && fleet.chain_nodes.as_ref().is_none_or(|d| d.problems.is_empty());
    let head = html! {
        h2 { "Needs attention" }
        // A peer reports no reasons, but the problems of its chain nodes.
        @if let Some(detail) = &fleet.chain_nodes { (chain_data::problems(detail)) }
        @if is_calm && !fleet.workers.iter().any(WorkerView::needs_attention) {
            p.calm { "Nothing. Waiting workers continue by themselves." }
        }
    };
    let part = Part::new("attention", head);
    if fleet.not_ready.is_empty() {
        return part;
    }
    let rows = fleet.not_ready.iter().enumerate().map(|(at, reason)| {
        // Not by code: two reasons may have the same one.
        let id = format!("not-ready-{at}");
        let row = html! {
            tr id=(id) {
                td data-label="Not ready" { (reason.code) }
                td.result data-label="Cause" { (format::sentence(&reason.message)) }
                td.result data-label="What to do" { (format::marked(readiness::remedy(reason.code))) }
            }
        };
        (id, row)
    });
    let columns = ["Not ready", "Cause", "What to do"];
    part.with_table(
        "not-ready",
        html! { thead { tr { @for name in columns { th scope="col" { (name) } } } } },
        rows.collect(),
    )
}

/// Workers with the same problem.
struct Group<'a> {
    workers: Vec<&'a WorkerView>,
    link: String,
}

/// Shows the workers that need attention by reason, those with the most at stake first.
fn attention(context: &Context, fleet: &FleetView) -> Part {
    let path = format!("{}/workers", context.base);
    let mut groups = BTreeMap::<(&str, &str), Group<'_>>::new();
    for worker in &fleet.workers {
        let Some(name) = worker.trouble().map(|trouble| problem(worker, trouble)) else { continue };
        let query = ListQuery {
            attention: true,
            reason: worker.reason.unwrap_or_default().to_owned(),
            state: worker.reason.is_none().then_some(worker.state),
            ..ListQuery::default()
        };
        // By the reason too, by which the list is filtered.
        let key = (name, worker.reason.unwrap_or_default());
        let group =
            groups.entry(key).or_insert_with(|| Group { workers: Vec::new(), link: query.link(&path) });
        group.workers.push(worker);
    }
    let locked = |group: &Group<'_>| group.workers.iter().map(|worker| worker.at_stake()).sum::<Balance>();
    let mut groups: Vec<_> = groups.into_iter().map(|(key, group)| (key, locked(&group), group)).collect();
    // The most at stake first, then the most workers: what costs the most stands on top.
    groups.sort_by(|(_, a_stake, a), (_, b_stake, b)| {
        (b_stake, b.workers.len()).cmp(&(a_stake, a.workers.len()))
    });
    let total: usize = groups.iter().map(|(.., group)| group.workers.len()).sum();
    let head = html! {
        @if total > 0 {
            p.small {
                a #all-trouble href=(ListQuery { attention: true, ..ListQuery::default() }.link(&path)) {
                    (format::count(total, "worker"))
                }
                ", by reason; those with the most at stake first."
            }
        }
    };
    let columns = ["Workers", "Reason", "At stake", "Cause", "What to do"];
    let rows = groups.iter().map(|((name, reason), stake, group)| {
        let id = format!("trouble-{name}-{reason}");
        (id.clone(), row(&id, name, *stake, group))
    });
    let part = Part::new("attention-workers", head);
    if total == 0 {
        return part;
    }
    part.with_table(
        "trouble",
        html! { thead { tr { @for name in columns { th scope="col" { (name) } } } } },
        rows.collect(),
    )
}

/// Returns the code of a trouble: of the reason if it is known, otherwise what is visible of it.
fn problem(worker: &WorkerView, trouble: Trouble) -> &'static str {
    trouble.code().or(worker.reason).unwrap_or(worker.state.as_str())
}

fn row(id: &str, name: &str, stake: Balance, group: &Group<'_>) -> Markup {
    let remedy = format::remedy(name);
    let first = group.workers[0];
    html! {
        tr id=(id) {
            td data-label="Workers" { a href=(group.link) { b { (format::grouped(group.workers.len() as u64)) } } }
            td data-label="Reason" { a href=(group.link) { (name) } }
            td data-label="At stake" { @if stake > 0 { (format::pha(stake)) } @else { "–" } }
            td.result data-label="Cause" {
                @match remedy {
                    Some(remedy) => (format::marked(remedy.cause)),
                    None => { (first.entry.name) ": " (first.message) }
                }
            }
            td.result data-label="What to do" {
                @match remedy {
                    Some(remedy) => (format::marked(remedy.remedy)),
                    None => "See the message.",
                }
            }
        }
    }
}

fn money(context: &Context, fleet: &FleetView) -> Markup {
    let sum = |which: fn(&WorkerView) -> bool| {
        fleet.workers.iter().filter(|w| which(w)).map(WorkerView::at_stake).sum::<Balance>()
    };
    let all = sum(|_| true);
    let unresponsive = sum(WorkerView::is_unresponsive);
    let problem = sum(WorkerView::needs_attention);
    let cooling = sum(|w| w.session_state() == Some(SessionState::WorkerCoolingDown));
    let chain: Vec<_> = fleet.pools.iter().filter_map(|pool| pool.on_chain()).collect();
    let minted: Balance = fleet.workers.iter().filter_map(|w| w.session()).map(|s| s.total_reward).sum();
    // A manager of an older version reports no stakes: zeros would be wrong then.
    let known = fleet.workers.iter().any(|w| w.session().is_some_and(|s| s.stake.is_some()));
    html! {
        h2 { "Money" }
        dl.facts.figures {
            @if known || all > 0 {
                (figure("Locked by sessions", &format::pha(all), false))
                (figure("of which unresponsive", &format::pha(unresponsive), unresponsive > 0))
                (figure("of which need attention", &format::pha(problem), problem > 0))
                (figure("of which cooling down", &format::pha(cooling), false))
            }
            @if !chain.is_empty() {
                (figure("Free in pools", &format::pha(chain.iter().map(|pool| pool.free_stake).sum()), false))
                (figure("Releasing in pools", &format::pha(chain.iter().map(|pool| pool.releasing_stake).sum()), false))
            }
            (figure("Minted by these sessions", &format::pha(minted), false))
        }
        p.small { a href={ (context.base) "/pools" } { "Pools" } }
    }
}

fn figure(name: &str, value: &str, bad: bool) -> Markup {
    html! { div { dt { (name) } dd.bad[bad] { (value) } } }
}

fn progress(fleet: &FleetView) -> Markup {
    // Workers whose lag is unknown are in no group.
    let lags: Vec<_> = fleet.workers.iter().filter_map(|worker| worker.lag).collect();
    let mut from = 0;
    let buckets = LAGS.map(|(to, name)| {
        let count = lags.iter().filter(|lag| (from..=to).contains(*lag)).count();
        from = to.saturating_add(1);
        (name, count)
    });
    html! {
        h2 { "Progress" }
        (heights(&fleet.tip, fleet.chain_block))
        @if let Some(jobs) = &fleet.jobs { (self::jobs(jobs)) }
        @if !lags.is_empty() {
            h3 { "Workers by lag, in parachain blocks" }
            dl.facts.figures {
                @for (name, count) in buckets { (figure(name, &format::grouped(count as u64), false)) }
                (figure("Largest", &format::number(lags.iter().max().copied()), false))
            }
        }
    }
}

fn jobs(jobs: &Stats) -> Markup {
    let rows = [
        ("Jobs queued", (jobs.waiting + jobs.delayed) as u64, false),
        ("Jobs in progress", jobs.active as u64, false),
        ("Jobs done", jobs.succeeded, false),
        ("Jobs failed", jobs.failed, jobs.failed > 0),
    ];
    html! {
        dl.facts.figures {
            @for (name, count, bad) in rows { (figure(name, &format::grouped(count), bad)) }
        }
    }
}

pub(super) fn heights(tip: &Tip, chain_block: Option<u32>) -> Markup {
    let row = |name: &str, have: Option<u32>, target: Option<u32>| {
        html! {
            div {
                dt { (name) }
                dd {
                    (format::number(have)) " of " (format::number(target))
                    @if let Some(behind) = have.zip(target).map(|(have, target)| target.saturating_sub(have)).filter(|n| *n > 0) {
                        " " span.small { "(" (format::grouped(behind.into())) " behind)" }
                    }
                }
            }
        }
    };
    html! {
        dl.facts.figures {
            (row("Relay chain data", tip.relay, tip.relay_target))
            (row("Parachain data", tip.para, tip.para_target))
            @if let Some(block) = chain_block { div { dt { "State read at block" } dd { (format::grouped(block.into())) } } }
        }
    }
}
