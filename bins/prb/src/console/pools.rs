//! The pools: operators, on-chain state, and workers.

use std::collections::HashMap;

use maud::{Markup, html};
use prb_core::{
    primitives::{AccountId, Balance, PHALA_SS58_PREFIX},
    worker::State,
};

use super::{
    context::Context,
    format,
    list::ListQuery,
    live::Part,
    view::{FleetView, PoolView},
};

pub(super) fn parts(context: &Context, fleet: &FleetView) -> Vec<Part> {
    let counts = Counts::by_pool(fleet);
    let rows = fleet.pools.iter().map(|pool| {
        let counts = counts.get(&pool.pid).copied().unwrap_or_default();
        (format!("p-{}", pool.id), row(context, pool, counts))
    });
    let read_only = context.fleet().ok().and_then(|fleet| fleet.read_only());
    let head = html! {
        div.title {
            h1 { "Pools" }
            @if read_only.is_none() { a.button #add-pool href={ (context.base) "/pools/new" } { "Add a pool" } }
        }
        @if let Some(reason) = read_only { p.small { (format::sentence(reason)) } }
        @if fleet.pools.is_empty() { p.empty { "No pools yet." } }
    };
    let columns =
        ["Pool", "Name", "Operator", "Owner", "Balance", "Free", "Releasing", "Total", "Workers", ""];
    let part = Part::new("pools", head);
    if fleet.pools.is_empty() {
        return vec![part];
    }
    vec![part.with_table(
        "pools",
        html! { thead { tr { @for name in columns { th scope="col" { (name) } } } } },
        rows.collect(),
    )]
}

/// A pool's workers.
#[derive(Clone, Copy, Default)]
struct Counts {
    all: usize,
    active: usize,
    problem: usize,
}

impl Counts {
    /// Counts the workers of all pools in one pass.
    fn by_pool(fleet: &FleetView) -> HashMap<u64, Self> {
        let mut all = HashMap::<u64, Self>::with_capacity(fleet.pools.len());
        for worker in &fleet.workers {
            let counts = all.entry(worker.entry.pid.0).or_default();
            counts.all += 1;
            counts.active += usize::from(worker.state == State::Active);
            counts.problem += usize::from(worker.needs_attention());
        }
        all
    }
}

fn row(context: &Context, pool: &PoolView, counts: Counts) -> Markup {
    let editable = context.fleet().is_ok_and(|fleet| fleet.read_only().is_none());
    let amount = |of: fn(&prb_core::chain::PoolOnChain) -> Balance| {
        pool.on_chain().map_or_else(|| "–".to_owned(), |chain| format::amount(of(chain)))
    };
    html! {
        tr id={ "p-" (pool.id) } .off[!pool.enabled] {
            td.name data-label="Pool" { (pool.pid) }
            td data-label="Name" {
                (pool.name)
                @if !pool.enabled { " " span.small { "disabled" } }
                @if pool.sync_only { " " span.small { "sync only" } }
            }
            td.account data-label="Operator" { (operator(pool)) }
            td.account data-label="Owner" { (owner(pool)) }
            td data-label="Balance" {
                @match &pool.account {
                    Some(Ok(account)) => { span.bad[account.free == 0] { (format::amount(account.free)) } }
                    Some(Err(error)) => { span.bad { (error) } }
                    None => "–",
                }
            }
            td data-label="Free" { (amount(|chain| chain.free_stake)) }
            td data-label="Releasing" { (amount(|chain| chain.releasing_stake)) }
            td data-label="Total" { (amount(|chain| chain.total_value)) (problem(pool)) }
            td data-label="Workers" { (workers(context, pool, counts)) }
            td.acts { @if editable { a id={ "edit-" (pool.pid) } href={ (context.base) "/pools/" (pool.id) "/edit" } { "Edit…" } } }
        }
    }
}

/// Shows a shortened account, with the full one as its title.
fn account(account: &AccountId) -> Markup {
    let text = account.to_ss58(PHALA_SS58_PREFIX);
    html! { code title=(text) { (text.get(..6).unwrap_or(&text)) "…" (text.get(text.len().saturating_sub(6)..).unwrap_or_default()) } }
}

fn operator(pool: &PoolView) -> Markup {
    html! {
        @match &pool.operator { Some(operator) => (account(operator)), None => { span.bad[!pool.sync_only] { "none" } } }
        @if let Some(proxied) = &pool.proxied { br; span.small { "for " (account(proxied)) } }
    }
}

/// Shows the owner on chain, marked if the operator does not act for it.
fn owner(pool: &PoolView) -> Markup {
    let Some(chain) = pool.on_chain() else { return html! { "–" } };
    let ours = pool.proxied.or(pool.operator);
    html! { span.bad[ours.is_some_and(|ours| ours != chain.owner)] { (account(&chain.owner)) } }
}

fn problem(pool: &PoolView) -> Markup {
    html! {
        @match &pool.chain {
            Some(Err(error)) => { br; span.bad { (error) } }
            Some(Ok(chain)) if chain.is_none() => { br; span.bad { "The chain has no such pool." } }
            _ => {}
        }
        @if let Some(chain) = pool.on_chain() {
            @if chain.is_vault { br; span.bad { "It is a vault." } }
            @if !chain.withdrawals.is_empty() { br; span.bad { (chain.withdrawals.len()) " withdrawals wait" } }
        }
    }
}

fn workers(context: &Context, pool: &PoolView, Counts { all, active, problem }: Counts) -> Markup {
    let path = format!("{}/workers", context.base);
    let query = ListQuery { pool: pool.pid.to_string(), ..ListQuery::default() };
    html! {
        a href=(query.link(&path)) { (active) " of " (all) " active" }
        @if problem > 0 {
            br;
            a.bad href=(ListQuery { attention: true, ..query.clone() }.link(&path)) { "attention: " (problem) }
        }
        @if let Some(chain) = pool.on_chain() { br; span.small { (chain.workers.len()) " on chain" } }
    }
}
