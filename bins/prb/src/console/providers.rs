//! The data providers of a manager: their provenance, state and record.

use maud::{Markup, html};
use prb_walkie::proto::provider_detail::Provider;

use super::{context::Context, format, live::Part};

/// Shows the table. `None` stands for a manager that reads the chains itself, or does not report its providers.
pub(super) fn part(context: &Context, providers: Option<&[Provider]>) -> Part {
    let Some(providers) = providers else { return Part::new("providers", html! {}) };
    let used = providers.iter().filter(|provider| provider.state == "ready").count();
    let head = html! {
        h2 { "Data providers" }
        @if providers.is_empty() {
            p.notice.bad { "No data provider has been found: workers wait for chain data." }
        } @else if used == 0 {
            p.notice.bad { "No data provider is in use: workers wait for chain data. The reasons are in the table." }
        }
    };
    table(context, head, providers)
}

/// Shows some of them below a heading.
pub(super) fn table(context: &Context, head: Markup, providers: &[Provider]) -> Part {
    let part = Part::new("providers", head);
    if providers.is_empty() {
        return part;
    }
    let columns = [
        "Provider",
        "State",
        "Why it is trusted",
        "Relay block",
        "Para block",
        "Answers in",
        "Served",
        "Failed",
        "Refused",
    ];
    let columns = html! { thead { tr { @for name in columns { th scope="col" { (name) } } } } };
    let rows = providers.iter().map(|one| (format!("provider-{}", one.peer_id), row(context, one)));
    part.with_table("providers", columns, rows.collect())
}

fn row(context: &Context, provider: &Provider) -> Markup {
    let (tone, state) = state(provider);
    let name = if provider.host.is_empty() { &provider.peer_id } else { &provider.host };
    let dash = |number: u64| if number == 0 { "–".to_owned() } else { format::grouped(number) };
    html! {
        tr id={ "provider-" (provider.peer_id) } .off[provider.state == "unused"] {
            td.name data-label="Provider" {
                @if context.console.0.node.is_some() { a href={ "/providers/" (provider.peer_id) } { (name) } } @else { (name) }
                br; code.small { (provider.address) }
            }
            td.result data-label="State" {
                span class={ "state " (tone) } { (state) }
                @if !provider.reason.is_empty() { br; (format::sentence(&provider.reason)) }
                @if provider.original { br; "An original: it is asked with the original's keys." }
            }
            td data-label="Why it is trusted" { (provenance(&provider.provenance)) }
            td data-label="Relay block" { (format::number(provider.relay)) }
            td data-label="Para block" { (format::number(provider.para)) }
            td data-label="Answers in" {
                @match provider.latency_ms { Some(time) => { (format::grouped(time)) "\u{a0}ms" }, None => "–" }
            }
            td data-label="Served" { (dash(provider.answered)) }
            td data-label="Failed" { span.bad[provider.failed > 0] { (dash(provider.failed)) } }
            td data-label="Refused" { span.bad[provider.refused > 0] { (dash(provider.refused)) } }
        }
    }
}

fn state(provider: &Provider) -> (&'static str, String) {
    let (tone, text) = match provider.state.as_str() {
        "ready" => ("succeeded", "in use"),
        "connecting" => ("waiting", "connecting"),
        "down" => ("failed", "no connection"),
        "aside" => ("failed", "suspended"),
        "unused" => ("idle", "not used"),
        _ => ("idle", "unknown"),
    };
    let text = match provider.for_ms {
        // In steps of ten seconds: a row is sent again whenever its text changes.
        Some(time) => format!("{text} for {} s", time.div_ceil(10_000) * 10),
        None => text.to_owned(),
    };
    (tone, text)
}

/// Describes a provenance.
fn provenance(name: &str) -> &str {
    match name {
        "discovered" => "It is not trusted: it was only discovered on the network",
        "trusted_network" => "Its address is in a trusted network",
        "same_machine" => "It is on the same machine",
        "boot_node" => "It is a boot node",
        "named" => "Its peer id is in the configuration",
        "shared_key" => "It has proved that it knows the shared key",
        _ => "–",
    }
}
