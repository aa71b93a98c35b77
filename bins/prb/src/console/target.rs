//! [`Target`]: the pages whose parts update themselves, and how they are rendered and streamed.

use axum::{
    http::{Extensions, HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use prb_walkie::node::PeerId;
use uuid::Uuid;

use super::{
    backend::Error,
    chain_data,
    context::{Context, notice, status},
    fields::Fields,
    history::Span,
    list::ListQuery,
    live::{self, Part},
    overview, peers, pools, worker, workers,
};
use crate::{listen, pages::layout};

/// A page.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    Overview(Span),
    Workers(Box<ListQuery>),
    Worker(Uuid),
    Pools,
    Peers,
    Provider(PeerId),
    ChainData,
}

impl Target {
    /// Parses the path of a page below the fleet's.
    fn read(context: &Context, path: &str, query: &str) -> Option<Self> {
        let mut steps = path.split('/').filter(|step| !step.is_empty());
        let target = match (steps.next(), steps.next()) {
            (None, _) if context.is_of_fleet() => {
                Self::Overview(Span::named(Fields::read(query.as_bytes()).get("span")))
            }
            (None, _) | (Some("peers"), None) => Self::Peers,
            (Some("workers"), None) => {
                Self::Workers(Box::new(ListQuery::read(&Fields::read(query.as_bytes()))))
            }
            (Some("workers"), Some(id)) => Self::Worker(id.parse().ok()?),
            (Some("pools"), None) => Self::Pools,
            (Some("chain-data"), None) => Self::ChainData,
            (Some("providers"), Some(peer)) => Self::Provider(peer.parse().ok()?),
            _ => return None,
        };
        steps.next().is_none().then_some(target)
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Overview(_) => "Overview",
            Self::Workers(_) => "Workers",
            Self::Worker(_) => "Worker",
            Self::Pools => "Pools",
            Self::Peers => "Peers",
            Self::Provider(_) => "Data provider",
            Self::ChainData => "Chain data",
        }
    }

    /// Returns the path of its navigation entry, below the fleet's.
    fn entry(&self, context: &Context) -> &'static str {
        match self {
            Self::Overview(_) => "",
            Self::Workers(_) | Self::Worker(_) => "/workers",
            Self::Pools => "/pools",
            Self::ChainData => "/chain-data",
            Self::Peers | Self::Provider(_) if context.is_of_fleet() => "/peers",
            Self::Peers | Self::Provider(_) => "",
        }
    }

    /// Returns the parts that update.
    async fn parts(&self, context: &Context) -> Result<Vec<Part>, Error> {
        match self {
            Self::Overview(span) => {
                let fleet = context.fleet()?.fleet().await?;
                Ok(overview::parts(context, &fleet, *span))
            }
            Self::Workers(query) => {
                let fleet = context.fleet()?.fleet().await?;
                Ok(workers::parts(context, &fleet, query))
            }
            Self::Worker(id) => worker::parts(context, *id).await,
            Self::Pools => {
                let fleet = context.fleet()?.fleet().await?;
                Ok(pools::parts(context, &fleet))
            }
            Self::Peers => Ok(peers::parts(context)),
            Self::ChainData => chain_data::parts(context).await,
            Self::Provider(peer) => peers::provider(context, *peer).await,
        }
    }

    /// Returns the part of the page that does not update.
    fn head(&self, context: &Context) -> Markup {
        match self {
            Self::Workers(query) => workers::filter(context, query),
            _ => html! {},
        }
    }
}

/// Renders a page. Content that the backend cannot provide now is shown as soon as it can.
pub(super) async fn page(context: Context, uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let Some(target) = Target::read(&context, uri.path(), query) else {
        return layout::not_found_page("There is no such page.");
    };
    let (parts, error) = match target.parts(&context).await {
        Ok(parts) => (parts, None),
        // Without reload: what does not exist will not appear by waiting.
        Err(error) if error.status == StatusCode::NOT_FOUND => return context.failed(&error),
        Err(error) => (Vec::new(), Some(error)),
    };
    let live = format!("{}/live/{}", context.base, uri.path().trim_start_matches('/'));
    let live = if query.is_empty() { live } else { format!("{live}?{query}") };
    let content = html! {
        (notice(error.as_ref()).markup())
        (target.head(&context))
        @for part in &parts { (part.markup()) }
        // There are no parts to update, so the page is reloaded.
        @if parts.is_empty() { p.empty data-reload { "This page is shown as soon as there is an answer." } }
    };
    (status(error.as_ref()), context.page(target.title(), target.entry(&context), Some(&live), &content))
        .into_response()
}

/// Its parts: as a stream of what changes, or all of them once.
pub(super) async fn live(context: Context, uri: Uri, headers: HeaderMap, extensions: Extensions) -> Response {
    let path = uri.path().strip_prefix("/live").unwrap_or_default();
    let Some(target) = Target::read(&context, path, uri.query().unwrap_or_default()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accepted.is_some_and(|accepted| accepted.contains("text/event-stream")) {
        let parts = all(&context, &target).await;
        return html! { @for part in &parts { (part.markup()) } }.into_response();
    }
    match context.console.0.streams.take(listen::peer_of(&extensions)) {
        Some(place) => live::stream(place, move || {
            let (context, target) = (context.clone(), target.clone());
            async move { all(&context, &target).await }
        }),
        // The script asks again and again instead.
        None => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")]).into_response(),
    }
}

/// Returns the parts with the notice; only the notice on an error, so that shown content stays.
async fn all(context: &Context, target: &Target) -> Vec<Part> {
    match target.parts(context).await {
        Ok(mut parts) => {
            parts.insert(0, notice(None));
            parts
        }
        Err(error) => vec![notice(Some(&error))],
    }
}
