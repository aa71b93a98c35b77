//! The chain nodes and the disk of this process, or of a data provider among the peers.

use std::sync::Arc;

use maud::{Markup, html};
use prb_walkie::proto::provider_detail::{Detail, Node};

use super::{backend::Error, context::Context, format, live::Part};

/// Maximum number of a peer's nodes and problems that are shown.
const MAX_SHOWN: usize = 64;
/// Maximum length of a peer's text that is shown, in characters.
const MAX_CHARS: usize = 400;
/// A disk with less free space is marked.
const FEW_BYTES: u64 = 20 << 30;
/// A disk with a smaller free part is marked, in percent.
const FEW_PERCENT: u64 = 5;

/// Returns the page of this process.
pub(super) async fn parts(context: &Context) -> Result<Vec<Part>, Error> {
    let none = || Error::not_found("this process follows no chain");
    let fleet = match context.fleet() {
        Ok(fleet) => fleet.fleet().await?,
        Err(error) if context.is_of_peer() => return Err(error),
        // A data provider has no fleet, but nodes and a disk.
        Err(_) => Arc::default(),
    };
    let (detail, title) = if context.is_of_peer() {
        (fleet.chain_nodes.clone(), "Chain data of the manager")
    } else {
        (Some(context.console.0.chain_data.as_ref().ok_or_else(none)?.detail().await), "Chain data")
    };
    let not_reported = html! {
        p.empty { "This manager is an original or of an older version: it does not report its data providers and chain nodes." }
    };
    Ok(vec![
        Part::new("head", html! { h1 { (title) } (super::overview::heights(&fleet.tip, None)) }),
        super::providers::part(context, fleet.providers.as_deref()),
        Part::new("nodes", detail.as_ref().map_or_else(|| not_reported, nodes)),
        Part::new("disk", detail.as_ref().map_or_else(|| html! {}, disk)),
    ])
}

/// Shows the chain nodes with their faults.
pub(super) fn nodes(detail: &Detail) -> Markup {
    let demoted = detail.nodes.iter().filter(|node| node.demoted || node.other_chain).count();
    html! {
        h2 { "Chain nodes" }
        (problems(detail))
        @if demoted > 0 { p.small { (format::count(demoted, "node")) " gave wrong answers: the reason is in the last column." } }
        @if detail.nodes.is_empty() {
            p.empty { "No nodes are known." }
        } @else {
            table.nodes {
                thead { tr { @for name in ["Chain", "Node", "State", "Does not offer", "Last error"] { th scope="col" { (name) } } } }
                tbody { @for node in detail.nodes.iter().take(MAX_SHOWN) { (row(node)) } }
            }
            @if detail.nodes.len() > MAX_SHOWN { p.small { "And " (format::count(detail.nodes.len() - MAX_SHOWN, "node")) " more." } }
        }
    }
}

/// Shows the problems of all nodes of a chain together.
pub(super) fn problems(detail: &Detail) -> Markup {
    html! {
        @for problem in detail.problems.iter().take(MAX_SHOWN) {
            p.notice.bad { (format::sentence(&cut(problem))) }
        }
    }
}

fn row(node: &Node) -> Markup {
    let (tone, state) = state(node);
    html! {
        tr {
            td data-label="Chain" { @match node.chain.as_str() { "relay" => "relay chain", "para" => "parachain", other => (cut(other)) } }
            td.name data-label="Node" { (cut(&node.name)) }
            td data-label="State" { span class={ "state " (tone) } { (state) } }
            td.result.none[node.lacks.is_empty()] data-label="Does not offer" {
                @for lack in node.lacks.iter().take(3) { (cut(lack)) br; }
                @if node.lacks.is_empty() { "–" }
            }
            td.result.none[node.last_error.is_none()] data-label="Last error" {
                @match &node.last_error {
                    Some(error) => { span.bad[node.demoted || node.other_chain] { (cut(error)) } }
                    None => "–",
                }
            }
        }
    }
}

/// Returns the worst known fault.
const fn state(node: &Node) -> (&'static str, &'static str) {
    match node {
        // The worst first: a node may be demoted and unreachable at the same time.
        Node { other_chain: true, .. } => ("failed", "another chain"),
        Node { demoted: true, .. } => ("failed", "demoted: others are preferred"),
        Node { backing_off: true, .. } => ("failed", "not reachable"),
        Node { deferred: true, .. } => ("waiting", "deferred"),
        Node { connected: true, .. } => ("succeeded", "in use"),
        _ => ("idle", "not connected"),
    }
}

/// Shows the size of the data and the free space.
pub(super) fn disk(detail: &Detail) -> Markup {
    let few = detail
        .free_bytes
        .zip(detail.disk_bytes)
        .is_some_and(|(free, all)| free < FEW_BYTES || free < all / 100 * FEW_PERCENT);
    html! {
        h2 { "Disk" }
        dl.facts.figures {
            @if let Some(bytes) = detail.store_bytes { (fact("Block store", &size(bytes), false)) }
            @match (detail.free_bytes, detail.disk_bytes) {
                (Some(free), Some(all)) => { (fact("Free", &format!("{} of {}", size(free), size(all)), few)) }
                _ => { (fact("Free", "not known", false)) }
            }
        }
        @if few { p.bad { "Free space is low: on a full disk no block can be stored, and workers wait." } }
    }
}

fn fact(name: &str, value: &str, bad: bool) -> Markup {
    html! { div { dt { (name) } dd.bad[bad] { (value) } } }
}

/// Formats bytes with a fitting unit and a space that does not break.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            format!("{}.{}\u{a0}{name}", format::grouped(bytes / unit), bytes % unit * 10 / unit)
        }
        None => format!("{}\u{a0}KiB", bytes / 1024),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_fitting_unit() {
        let shown = [0, 1024, 5 << 20, (3 << 30) + (1 << 29), 2 << 40]
            .map(|bytes| size(bytes).replace('\u{a0}', " "));
        assert_eq!(shown, ["0 KiB", "1 KiB", "5.0 MiB", "3.5 GiB", "2.0 TiB"]);
    }

    #[test]
    fn the_worst_fault_of_a_node_is_shown_with_its_reason() {
        let mut node = Node { connected: true, deferred: true, ..Node::default() };
        assert_eq!(state(&node).1, "deferred");
        node.demoted = true;
        node.last_error = Some("a header of <b>another</b> chain".to_owned());
        let detail = Detail {
            nodes: vec![node],
            free_bytes: Some(1 << 30),
            disk_bytes: Some(1 << 40),
            ..Detail::default()
        };
        let shown = nodes(&detail).into_string();
        assert!(
            shown.contains("demoted: others are preferred") && shown.contains("a header of &lt;b&gt;another"),
            "{shown}"
        );
        assert!(shown.contains("1 node gave wrong answers"), "{shown}");
        assert!(disk(&detail).into_string().contains("Free space is low"));
        let room = Detail { free_bytes: Some(500 << 30), ..detail };
        assert!(!disk(&room).into_string().contains("Free space is low"));
    }
}
