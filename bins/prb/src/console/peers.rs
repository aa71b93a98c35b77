//! The peers, and one data provider.

use maud::{Markup, html};
use prb_walkie::{
    node::{Membership, Peer, PeerId},
    proto::{Empty, Role, data_provider as dp},
    rpc::calls,
};

use super::{backend::Error, chain_data, context::Context, format, live::Part, peer::with_timeout};

pub(super) fn parts(context: &Context) -> Vec<Part> {
    let Some(node) = &context.console.0.node else { return Vec::new() };
    let table = node.peers().borrow().clone();
    let of =
        |roles: &[Role]| table.iter().filter(|peer| roles.contains(&peer.role)).cloned().collect::<Vec<_>>();
    let managers = of(&[Role::LifecycleManager]);
    let providers = of(&[Role::DataProviderInt, Role::DataProviderExt]);
    let others = of(&[Role::Trader, Role::Client]);
    let head = html! {
        div.title { h1 { "Peers" } p.small { "This peer: " code { (node.peer_id()) } } }
        @if table.is_empty() {
            p.empty { "No peers have been found yet. On networks without mDNS, boot nodes are needed." }
        }
    };
    let mut parts = vec![Part::new("head", head)];
    for (id, title, peers) in [
        ("managers", "Lifecycle managers", managers),
        ("providers", "Data providers", providers),
        ("others", "Others", others),
    ] {
        if peers.is_empty() {
            // An empty part stays on the page: the script can only fill an element that exists.
            parts.push(Part::new(id, html! {}));
            continue;
        }
        let rows = peers.iter().map(|peer| (format!("peer-{}", peer.peer_id), row(context, peer))).collect();
        let columns = ["Host", "Peer", "Address", "Group", "Chain", "Connected", "Round trip"];
        let head = html! { thead { tr { @for name in columns { th scope="col" { (name) } } } } };
        parts.push(
            Part::new(id, html! { h2 { (title) " (" (peers.len()) ")" } }).with_table("peers", head, rows),
        );
    }
    parts
}

fn row(context: &Context, peer: &Peer) -> Markup {
    let link = match peer.role {
        Role::LifecycleManager if context.console.0.managers.is_some() => {
            Some(format!("/managers/{}", peer.peer_id))
        }
        Role::DataProviderInt | Role::DataProviderExt => Some(format!("/providers/{}", peer.peer_id)),
        _ => None,
    };
    let host = if peer.hostname.is_empty() { "(no name)" } else { &peer.hostname };
    html! {
        tr id={ "peer-" (peer.peer_id) } .off[!peer.connected] {
            td.name data-label="Host" {
                @match link { Some(link) => { a href=(link) { (host) } }, None => (host) }
            }
            td data-label="Peer" { code { (peer.peer_id) } }
            td data-label="Address" { @match &peer.address { Some(address) => { code { (address) } }, None => "–" } }
            td data-label="Group" { (peer.bridge_identity) }
            td data-label="Chain" { (chain(peer)) }
            td data-label="Connected" { @if peer.connected { "yes" } @else { "no, last seen " (format::timestamp(peer.last_seen)) } }
            td data-label="Round trip" {
                @match peer.round_trip { Some(time) => { (time.as_millis()) "\u{a0}ms" }, None => "–" }
            }
        }
    }
}

fn chain(peer: &Peer) -> Markup {
    let short = peer.chain_identity.get(..12).unwrap_or(&peer.chain_identity);
    html! {
        @if short.is_empty() { "not known yet" } @else { code title=(peer.chain_identity) { (short) "…" } }
        @match peer.membership {
            Membership::OtherChain => { br; span.bad { "different chain" } }
            Membership::OtherBridge => { br; span.bad { "different group" } }
            _ => {}
        }
    }
}

/// Shows what a data provider reports about itself.
pub(super) async fn provider(context: &Context, peer: PeerId) -> Result<Vec<Part>, Error> {
    let none = || Error::not_found("there is no such data provider among the peers");
    let node = context.console.0.node.as_ref().ok_or_else(none)?;
    let known = node.peers().borrow().get(&peer).cloned().ok_or_else(none)?;
    let report = with_timeout(node.client(peer).call(calls::GetFullInfo, Empty::default())).await?;
    let info = report.info;
    let status = match info.status() {
        dp::Status::Idle => ("succeeded", "at the tip"),
        dp::Status::Synching => ("waiting", "fetching"),
        dp::Status::Unknown => ("idle", "unknown"),
    };
    let content = html! {
        div.title { h1 { (known.hostname) " " span class={ "state " (status.0) } { (status.1) } } }
        dl.facts {
            div.wide { dt { "Peer" } dd { code { (peer) } } }
            @if let Some(address) = &known.address { div.wide { dt { "Address" } dd { code { (address) } } } }
            div.wide { dt { "Chain" } dd { code { (known.chain_identity) } } }
            (fact("Group", &known.bridge_identity))
            (fact("Parachain id", &height(info.para_id)))
            (fact("Blob server's port", &info.blob_server_port.to_string()))
        }
        (heights(&info))
    };
    let detail = report.detail();
    // As the manager of this process knows it.
    let own = match context.fleet() {
        Ok(fleet) => fleet.fleet().await?.providers.clone(),
        Err(_) => None,
    };
    let id = peer.to_string();
    let of_own: Vec<_> = own.into_iter().flatten().filter(|one| one.peer_id == id).collect();
    let known = html! { @if !of_own.is_empty() { h2 { "As this manager uses it" } } };
    Ok(vec![
        Part::new("provider", content),
        super::providers::table(context, known, &of_own),
        Part::new("nodes", detail.map_or_else(|| html! {}, chain_data::nodes)),
        Part::new("disk", detail.map_or_else(|| html! {}, chain_data::disk)),
    ])
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn height(number: i32) -> String {
    format::number(u32::try_from(number).ok())
}

fn heights(info: &dp::Info) -> Markup {
    let rows = [
        ("Target (newest of its node)", info.parent_target, info.para_target),
        ("Fetched", info.parent_fetched_height, info.para_fetched_height),
        ("Processed (can be served)", info.parent_processed_height, info.para_processed_height),
        ("Committed (on disk)", info.parent_committed_height, info.para_committed_height),
    ];
    html! {
        table.heights {
            thead { tr { th scope="col" { "" } th scope="col" { "Relay chain" } th scope="col" { "Parachain" } } }
            tbody {
                @for (name, relay, para) in rows {
                    tr {
                        th scope="row" { (name) }
                        td data-label="Relay chain" { (height(relay)) }
                        td data-label="Parachain" { (height(para)) }
                    }
                }
                tr {
                    th scope="row" { "First header available" }
                    td data-label="Relay chain" { (height(info.parent_start_header)) }
                    td data-label="Parachain" { "–" }
                }
            }
        }
    }
}
