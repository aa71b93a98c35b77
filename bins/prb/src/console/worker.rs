//! The page of one worker: its state with cause and remedy, commands, events, and all known details.

use std::sync::Arc;

use maud::{Markup, html};
use prb_core::{
    chain::WorkerOnChain,
    primitives::PHALA_SS58_PREFIX,
    prpc::PhactoryInfo,
    queue::JobId,
    worker::{Command, Event},
};
use uuid::Uuid;

use super::{
    TRANSACTIONS_PATH,
    backend::Error,
    context::Context,
    format,
    live::Part,
    view::{FleetView, WorkerView},
};

pub(super) async fn parts(context: &Context, id: Uuid) -> Result<Vec<Part>, Error> {
    let backend = context.fleet()?;
    let fleet = backend.fleet().await?;
    let worker = fleet.worker(id).ok_or_else(|| Error::not_found("there is no such worker"))?;
    // At the same time: either may be slow.
    let (events, jobs) = tokio::join!(backend.events(id), jobs(context, worker));
    let events = events?;
    Ok(vec![
        Part::new("worker", state(context, worker)),
        Part::new("commands", commands(context, worker)),
        Part::new("progress", progress(context, worker, &fleet)),
        Part::new("session", session(worker)),
        Part::new("runtime", runtime(worker)),
        Part::new("entry", entry(context, worker, &fleet)),
        Part::new("jobs", jobs),
        timeline(events),
    ])
}

/// Shows its newest jobs, if this process has a queue.
async fn jobs(context: &Context, worker: &WorkerView) -> Markup {
    let recent = context.console.0.recent.as_ref().filter(|_| !context.is_of_peer());
    let (Some(recent), Some(key)) = (recent, worker.key) else { return html! {} };
    let known = [(key, Arc::clone(&worker.entry))].into();
    html! {
        h2 { "Transactions" }
        (recent.of_worker(TRANSACTIONS_PATH, key, &known).await)
    }
}

fn state(context: &Context, worker: &WorkerView) -> Markup {
    let trouble = worker.needs_attention();
    html! {
        div.title {
            h1 { (worker.entry.name) " " (format::badge(worker.state)) }
            p.small { a href={ (context.base) "/workers" } { "All workers" } }
        }
        div.why.bad[trouble] {
            p.message { (worker.message) }
            @if let Some(reason) = worker.reason {
                @let remedy = format::remedy(reason);
                dl.facts {
                    (fact("Reason", &html! { (reason) }))
                    @if let Some(at) = worker.message_at { (fact("Since (UTC)", &format::timestamp(at))) }
                    @if let Some(remedy) = remedy {
                        div.wide { dt { "Cause" } dd { (format::marked(remedy.cause)) } }
                        div.wide { dt { "What to do" } dd { (format::marked(remedy.remedy)) } }
                    }
                }
            } @else if let Some(at) = worker.message_at {
                p.small { "Since " (format::timestamp(at)) " UTC." }
            }
            @if worker.stalled == Some(true) { p.bad { "It has made no progress for a long time although more blocks are available." } }
        }
    }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn commands(context: &Context, worker: &WorkerView) -> Markup {
    let Ok(fleet) = context.fleet() else { return html! {} };
    let fits = |command: &Command| {
        // Confirming a key makes sense only while one waits for it.
        *command != Command::ConfirmKey || worker.reason.is_some_and(|r| r.starts_with("key-changed"))
    };
    html! {
        nav.acts aria-label="Commands" {
            @for command in fleet.commands().iter().copied().filter(fits) {
                a.button id={ "do-" (command.as_str()) }
                    href={ (context.base) "/workers/confirm?command=" (command.as_str()) "&id=" (worker.id()) } {
                    (command.as_str()) "…"
                }
            }
        }
    }
}

/// A job's number, with a link where its page is here.
fn job_link(context: &Context, job: JobId) -> Markup {
    // Another manager's jobs are in its own queue, which has no page here.
    let here = context.console.0.queue.is_some() && !context.is_of_peer();
    html! {
        @if here { a href={ (TRANSACTIONS_PATH) "/jobs/" (job) } { "job " (job) } } @else { "job " (job) }
    }
}

fn progress(context: &Context, worker: &WorkerView, fleet: &FleetView) -> Markup {
    html! {
        h2 { "Progress" }
        dl.facts.figures {
            (fact("Lag", &html! { (format::number(worker.lag)) }))
            (fact("Parachain block", &html! { (format::number(worker.para_block)) " of " (format::number(fleet.tip.para_target)) }))
            (fact("Parachain header", &html! { (format::number(worker.para_header)) }))
            (fact("Relay header", &html! { (format::number(worker.relay_header)) " of " (format::number(fleet.tip.relay_target)) }))
            @if let Some(failures) = worker.failures.filter(|failures| *failures > 0) {
                (fact("Failures in a row", &html! { (failures) }))
            }
            @if let Some(goal) = worker.goal { (fact("Goal", &html! { (format::goal(goal)) })) }
            @if let Some(of) = &worker.in_flight {
                (fact("In flight (UTC)", &html! {
                    (format::in_flight(of))
                    @if let Some(job) = of.job { ", " (job_link(context, job)) }
                }))
            }
            @if let Some(checkpoint) = &worker.checkpoint {
                (fact("Last checkpoint", &html! {
                    @match &checkpoint.result {
                        Ok(block) => { "block " (format::grouped(block.0.into())) }
                        Err(error) => { span.bad { (error) } }
                    }
                    ", " (format::timestamp(checkpoint.at))
                }))
            }
        }
    }
}

fn session(worker: &WorkerView) -> Markup {
    html! {
        h2 { "On chain" }
        @match &worker.chain {
            None => { p.small { "Its on-chain state has not been read." } }
            Some(chain) => (on_chain(chain, worker)),
        }
    }
}

fn on_chain(chain: &WorkerOnChain, worker: &WorkerView) -> Markup {
    let account =
        |account: &prb_core::primitives::AccountId| html! { code { (account.to_ss58(PHALA_SS58_PREFIX)) } };
    html! {
        dl.facts {
            @if let Some(session) = &chain.session {
                (fact("Session", &html! { span.bad[worker.is_unresponsive()] { (format::session(session.state)) } }))
                (fact("At stake", &html! { @match session.stake { Some(stake) => (format::pha(stake)), None => "–" } }))
                (fact("V", &html! { (format::fixed(session.v)) }))
                (fact("Ve", &html! { (format::fixed(session.ve)) }))
                (fact("P instant", &html! { (format::grouped(session.p_instant.into())) }))
                (fact("P initial", &html! { (format::grouped(session.p_init.into())) }))
                (fact("Minted", &html! { (format::pha(session.total_reward)) }))
                (fact("Iterations", &html! { (format::grouped(session.iterations)) }))
                (fact("Computing since (UTC)", &format::timestamp_secs(session.working_start_time)))
                (fact("Last challenge (UTC)", &format::timestamp_secs(session.challenge_time_last)))
                @if session.cool_down_start > 0 {
                    (fact("Cool-down since (UTC)", &format::timestamp_secs(session.cool_down_start)))
                }
                div.wide { dt { "Session account" } dd { (account(&session.account)) } }
            } @else {
                (fact("Session", &html! { "none" }))
            }
            (registration(chain))
        }
    }
}

fn registration(chain: &WorkerOnChain) -> Markup {
    let Some(registration) = &chain.registration else { return html! {} };
    html! {
        @if let Some(pool) = chain.pool { (fact("Pool on chain", &html! { (pool) })) }
        (fact("Confidence level", &html! { (registration.confidence_level) }))
        (fact("Initial score", &html! { (format::number(registration.initial_score)) }))
        (fact("Registered (UTC)", &format::timestamp_secs(registration.last_updated)))
        (fact("Attested by", &html! { @match registration.attestation_provider { Some(by) => (format!("{by:?}")), None => "none" } }))
        (fact("Features", &html! { (registration.features.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")) }))
        (fact("Next message", &html! { (format::grouped(chain.ingress_sequence)) }))
        @if !chain.endpoints.is_empty() {
            div.wide { dt { "Announced endpoints" } dd { (chain.endpoints.join(", ")) } }
        }
        @if let Some(operator) = &registration.operator {
            div.wide { dt { "Operator" } dd { code { (operator.to_ss58(PHALA_SS58_PREFIX)) } } }
        }
    }
}

fn runtime(worker: &WorkerView) -> Markup {
    html! {
        h2 { "pRuntime" }
        @match &worker.info {
            None => { p.small { "pRuntime has not answered yet." } }
            Some(info) => (machine(info, worker)),
        }
    }
}

fn machine(info: &PhactoryInfo, worker: &WorkerView) -> Markup {
    html! {
        dl.facts {
            (fact("Version", &html! { (info.version) }))
            (fact("Git revision", &html! { code { (info.git_revision) } }))
            @if let Some(memory) = &info.memory_usage {
                (fact("Memory used", &html! { (format::mib(memory.rust_used)) }))
                (fact("Memory peak", &html! { (format::mib(memory.rust_peak_used)) }))
                (fact("Memory total peak", &html! { (format::mib(memory.total_peak_used)) }))
            }
            (fact("Score", &html! { (format::grouped(info.score)) }))
            (fact("Messages waiting", &html! { (format::grouped(info.pending_messages)) }))
            @if info.safe_mode_level > 0 { (fact("Safe mode", &html! { span.bad { "level " (info.safe_mode_level) } })) }
            @if info.dev_mode { (fact("Enclave", &html! { span.bad { "none: development mode" } })) }
            @if let Some(key) = worker.key { div.wide { dt { "Public key" } dd { code { (key) } } } }
            @if let Some(change) = worker.key_change {
                (fact("Last key change (UTC)", &html! {
                    (format::timestamp(change.at()))
                    @if let Some(block) = change.block { ", after block " (format::grouped(block.0.into())) }
                }))
            }
        }
    }
}

fn entry(context: &Context, worker: &WorkerView, fleet: &FleetView) -> Markup {
    let (entry, base) = (&worker.entry, &context.base);
    let editable = context.fleet().is_ok_and(|fleet| fleet.read_only().is_none());
    html! {
        h2 { "Entry" }
        dl.facts {
            (fact("Pool", &html! {
                (entry.pid)
                @if let Some(pool) = fleet.pool(entry.pid.0) { " " (pool.name) }
            }))
            (fact("Stake", &html! { (format::pha(entry.stake)) }))
            (fact("Enabled", &html! { (yes(entry.enabled)) }))
            (fact("Sync only", &html! { (yes(entry.sync_only)) }))
            @if entry.gatekeeper { (fact("Gatekeeper", &html! { "yes" })) }
            @if let Some(after) = entry.after_stop { (fact("After a stop by somebody else", &html! { (after.as_str()) })) }
            div.wide { dt { "Endpoint" } dd { (entry.endpoint) } }
            div.wide { dt { "ID" } dd { code { (entry.id) } } }
        }
        nav.acts {
            @if editable { a.button #edit href={ (base) "/workers/" (entry.id) "/edit" } { "Edit or remove…" } }
        }
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// Shows events, newest first.
fn timeline(events: Option<Vec<Event>>) -> Part {
    let Some(events) = events else { return Part::new("events", html! {}) };
    if events.is_empty() {
        return Part::new("events", html! { h2 { "What happened" } p.small { "Nothing yet." } });
    }
    let row = |event: &Event| {
        let id = format!("event-{}", event.number);
        let row = html! {
            tr id=(id) {
                td data-label="At" { (format::timestamp(event.at)) }
                td.result { (format::event(&event.kind)) }
            }
        };
        (id, row)
    };
    let rows = events.iter().rev().map(row).collect();
    Part::new("events", html! { h2 { "What happened" } }).with_table(
        "history",
        html! { thead { tr { th scope="col" { "At (UTC)" } th scope="col" { "What" } } } },
        rows,
    )
}
