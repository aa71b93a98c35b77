//! Commands for workers: a preview for each worker, then, with the token, the command.

use std::collections::HashMap;

use axum::{
    body::Bytes,
    extract::RawQuery,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use prb_core::worker::Command;
use uuid::Uuid;

use super::{
    backend::{Backend, Error, Preview},
    context::Context,
    fields::Fields,
    format,
    list::ListQuery,
    view::FleetView,
};
use crate::pages::layout;

/// Maximum number of workers named before a command; of more, only the number is shown.
const MAX_NAMED: usize = 500;
/// Maximum number of refusals in an answer.
const MAX_REFUSALS: usize = 3;

/// Shows what a command would do.
pub(super) async fn page(context: Context, RawQuery(query): RawQuery) -> Response {
    let fields = Fields::read(query.unwrap_or_default().as_bytes());
    match preview(&context, &fields).await {
        Ok(page) => page.into_response(),
        Err(error) => context.failed(&error),
    }
}

async fn preview(context: &Context, fields: &Fields) -> Result<Markup, Error> {
    let backend = context.fleet()?;
    let command = command_of(&**backend, fields)?;
    let fleet = backend.fleet().await?;
    // All that match the filter, not only those of one page.
    let ids = if fields.is_on("all") {
        ListQuery::read(fields).find(&fleet).iter().map(|worker| worker.id()).collect()
    } else {
        fields.ids("id").map_err(|text| Error::new(StatusCode::BAD_REQUEST, text))?
    };
    let previews = backend.preview(&ids, command).await?;
    let title = format!("{}: what will happen", command.as_str());
    Ok(context.page(&title, "/workers", None, &content(context, command, &fleet, &previews)))
}

fn command_of(backend: &dyn Backend, fields: &Fields) -> Result<Command, Error> {
    let named = backend.commands().iter().find(|command| command.as_str() == fields.get("command"));
    named.copied().ok_or_else(|| Error::new(StatusCode::BAD_REQUEST, "there is no such command here"))
}

fn content(context: &Context, command: Command, fleet: &FleetView, previews: &[Preview]) -> Markup {
    let taken: Vec<_> = previews.iter().filter(|(_, answer)| answer.is_ok()).map(|(id, _)| *id).collect();
    let left_out = previews.len() - taken.len();
    let back = match previews {
        [(id, _)] => format!("{}/workers/{id}", context.base),
        _ => format!("{}/workers", context.base),
    };
    let button = format!("{} {}", command.as_str(), count(taken.len()));
    let by_id: HashMap<_, _> = fleet.workers.iter().map(|worker| (worker.id(), worker)).collect();
    html! {
        div.title { h1 { (command.as_str()) ": " (count(taken.len())) } }
        @if previews.is_empty() {
            p.empty { "No worker was chosen." }
        } @else if left_out > 0 {
            p.notice { (count(left_out)) " of those chosen will be left out; the reasons are below." }
        }
        @if !taken.is_empty() {
            form.acts method="post" action={ (context.base) "/workers/command" } data-act data-then=(back) {
                input type="hidden" name="command" value=(command.as_str());
                // The previewed workers by id, not the filter: the command is for those that were shown, not
                // for those that match by then.
                input type="hidden" name="ids" value=(joined(&taken));
                button.main #give type="submit" { (button) }
                a.button href=(back) { "Back" }
            }
            p.error role="alert" data-error hidden {}
        } @else {
            p { a.button href=(back) { "Back" } }
        }
        (groups(previews))
        table.preview {
            thead { tr { @for name in ["Worker", "State", "Pool", "At stake", "What will happen"] { th scope="col" { (name) } } } }
            tbody {
                @for (id, answer) in previews.iter().take(MAX_NAMED) {
                    @let worker = by_id.get(id);
                    tr {
                        td.name data-label="Worker" { (worker.map_or_else(|| id.to_string(), |worker| worker.entry.name.clone())) }
                        td data-label="State" { @if let Some(worker) = worker { (format::badge(worker.state)) } }
                        td data-label="Pool" { @if let Some(worker) = worker { (worker.entry.pid) } }
                        td data-label="At stake" { @if let Some(worker) = worker { (format::amount(worker.at_stake())) } }
                        td.result {
                            @match answer {
                                Ok(text) => (text),
                                Err(text) => { span.bad { "Left out: " (text) } }
                            }
                        }
                    }
                }
            }
        }
        @if previews.len() > MAX_NAMED { p.small { "And " (count(previews.len() - MAX_NAMED)) " more." } }
    }
}

/// Shows previews grouped by text, for commands to hundreds of workers.
fn groups(previews: &[Preview]) -> Markup {
    let mut groups = HashMap::<&str, usize>::new();
    for text in previews.iter().filter_map(|(_, answer)| answer.as_deref().ok()) {
        *groups.entry(text).or_default() += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    // By text among equals: the order of a map would change with every request.
    groups.sort_by_key(|(text, number)| (usize::MAX - number, *text));
    html! {
        @if previews.len() > 1 {
            ul.groups { @for (text, number) in groups.iter().take(10) { li { b { (number) } " × " (text) } } }
        }
    }
}

fn count(number: usize) -> String {
    format::count(number, "worker")
}

fn joined(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")
}

/// Gives a command.
pub(super) async fn command(context: Context, headers: HeaderMap, body: Bytes) -> Response {
    let fields = Fields::read(&body);
    match give_command(&context, &fields).await {
        Ok(text) => layout::message_response(&headers, StatusCode::OK, &text),
        Err(error) => layout::message_response(&headers, error.status, &format::sentence(&error.message)),
    }
}

async fn give_command(context: &Context, fields: &Fields) -> Result<String, Error> {
    let backend = context.fleet()?;
    let command = command_of(&**backend, fields)?;
    let ids = fields.ids("ids").map_err(|text| Error::new(StatusCode::BAD_REQUEST, text))?;
    let done = backend.command(&ids, command).await?;
    tracing::info!(
        command = command.as_str(),
        workers = done.taken,
        refused = done.refused.len(),
        "command given by an operator"
    );
    let mut text = format!("{} accepted the command {}.", count(done.taken), command.as_str());
    if !done.refused.is_empty() {
        let reasons = done.refused[..done.refused.len().min(MAX_REFUSALS)].join("; ");
        text.push_str(&format!(" {} left out: {reasons}.", count(done.refused.len())));
    }
    if let Some(reason) = &done.not_stored {
        text.push_str(&format!(" {}", format::sentence(reason)));
    }
    Ok(text)
}
