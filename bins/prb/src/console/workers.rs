//! The list of workers: filter, order, pages, and commands for several workers.

use maud::{Markup, html};
use prb_core::worker::State;

use super::{
    columns::{COLUMNS, Column, Set},
    context::Context,
    format,
    list::{ListQuery, MAX_TEXT, Page, SIZES},
    live::Part,
    view::{FleetView, WorkerView},
};

/// Shows the filter. It is not among the parts that update, so that input is not lost.
pub(super) fn filter(context: &Context, query: &ListQuery) -> Markup {
    let path = format!("{}/workers", context.base);
    let editable = context.fleet().is_ok_and(|fleet| fleet.read_only().is_none());
    html! {
        div.title {
            h1 { "Workers" }
            @if editable { a.button href={ (path) "/new" } { "Add a worker" } }
        }
        form.filter method="get" action=(path) data-filter autocomplete="off" {
            label {
                "State"
                select name="state" {
                    option value="" { "all" }
                    @for state in State::ALL.map(State::as_str) {
                        option value=(state) selected[query.state.is_some_and(|query| query.as_str() == state)] { (state) }
                    }
                }
            }
            label { "Pool" input.short name="pool" inputmode="numeric" maxlength="20" placeholder="all" value=(query.pool); }
            label.wide {
                "Name, message, reason, endpoint, key or id"
                input name="text" type="search" maxlength=(MAX_TEXT) value=(query.text);
            }
            label.check { input type="checkbox" name="attention" value="1" checked[query.attention]; "Needs attention" }
            label {
                "Columns"
                select name="columns" {
                    @for (set, title) in Set::ALL { option value=(set.name()) selected[query.set == set] { (title) } }
                }
            }
            label {
                "Rows"
                select name="size" {
                    @for size in SIZES { option value=(size) selected[query.size == size] { (size) } }
                }
            }
            // A form's query replaces the whole one of the URL, so what it has no visible fields for is
            // passed on hidden.
            @if !query.reason.is_empty() { input type="hidden" name="reason" value=(query.reason); }
            @if !query.sort.is_empty() { input type="hidden" name="sort" value=(query.sort); }
            @if query.descending { input type="hidden" name="order" value="down"; }
            button type="submit" { "Show" }
            a.quiet href=(path) { "Show all" }
        }
    }
}

pub(super) fn parts(context: &Context, fleet: &FleetView, query: &ListQuery) -> Vec<Part> {
    let found = query.find(fleet);
    let page = Page::of(&found, query);
    let columns: Vec<_> = COLUMNS.iter().filter(|column| column.is_in(query.set)).collect();
    let rows = page.workers.iter().map(|worker| (row_id(worker), row(context, worker, &columns)));
    let list = Part::new("list", page_range(&page, query));
    let list = if page.workers.is_empty() {
        list
    } else {
        list.with_table("workers", head(context, query, &columns), rows.collect())
    };
    vec![Part::new("bulk", bulk(context, query)), list.with_after(pager(context, query, &page))]
}

/// Shows the commands for the chosen workers. The content changes with the filter only, so that a selection
/// is kept.
fn bulk(context: &Context, query: &ListQuery) -> Markup {
    let Ok(fleet) = context.fleet() else { return html! {} };
    html! {
        @if !fleet.commands().is_empty() {
            form.bulk #bulk-form method="get" action={ (context.base) "/workers/confirm" } {
                // For the second button, whose command is for all that match this filter.
                @for (name, value) in query.filter_fields() { input type="hidden" name=(name) value=(value); }
                label {
                    "Command"
                    select #bulk-command name="command" {
                        @for command in fleet.commands() { option value=(command.as_str()) { (command.as_str()) } }
                    }
                }
                button #bulk-chosen type="submit" { "For the chosen…" }
                button #bulk-all type="submit" name="all" value="1" { "For all that match the filter…" }
            }
        }
    }
}

fn page_range(page: &Page<'_>, query: &ListQuery) -> Markup {
    html! {
        p.extent {
            @if page.workers.is_empty() {
                "No worker matches the filter."
            } @else {
                b { (format::grouped(page.first as u64 + 1)) "–" (format::grouped((page.first + page.workers.len()) as u64)) }
                " of " b { (format::grouped(page.total as u64)) }
                @if !query.reason.is_empty() { ", reason " b { (query.reason) } }
            }
        }
    }
}

fn head(context: &Context, query: &ListQuery, columns: &[&Column]) -> Markup {
    let path = format!("{}/workers", context.base);
    let link = |sort: &str| {
        let is_this = query.sort == sort;
        ListQuery {
            sort: sort.to_owned(),
            descending: is_this && !query.descending,
            page: 1,
            ..query.clone()
        }
        .link(&path)
    };
    let sorted = |sort: &str| {
        (query.sort == sort).then_some(if query.descending { "descending" } else { "ascending" })
    };
    html! {
        thead {
            tr {
                th.choose scope="col" { input #choose-all type="checkbox" aria-label="Choose all on this page" data-choose="id"; }
                th scope="col" aria-sort=[query.sort.is_empty().then_some("ascending")] {
                    a href=(ListQuery { sort: String::new(), descending: false, page: 1, ..query.clone() }.link(&path)) { "Name" }
                }
                @for column in columns {
                    th scope="col" aria-sort=[sorted(column.name)] {
                        @if column.order.is_some() { a href=(link(column.name)) { (column.title) } } @else { (column.title) }
                    }
                }
            }
        }
    }
}

fn row_id(worker: &WorkerView) -> String {
    format!("w-{}", worker.id())
}

fn row(context: &Context, worker: &WorkerView, columns: &[&Column]) -> Markup {
    let id = worker.id();
    html! {
        tr id=(row_id(worker)) .off[!worker.entry.enabled] {
            // The form is outside of this part, which is replaced; `form` ties the box to it.
            td.choose { input type="checkbox" form="bulk-form" name="id" value=(id) id={ "choose-" (id) } aria-label={ "Choose " (worker.entry.name) }; }
            td.name { a href={ (context.base) "/workers/" (id) } id={ "open-" (id) } { (worker.entry.name) } }
            @for column in columns {
                @let cell = (column.cell)(worker);
                td class={ "c-" (column.name) @if cell.0 == "–" { " none" } } data-label=(column.title) { (cell) }
            }
        }
    }
}

fn pager(context: &Context, query: &ListQuery, page: &Page<'_>) -> Markup {
    let path = format!("{}/workers", context.base);
    let to = |page: usize| ListQuery { page, ..query.clone() }.link(&path);
    let (number, of) = (page.number, page.of);
    let entries = [
        ("first", "« First", 1, number > 1),
        ("previous", "‹ Previous", number.saturating_sub(1), number > 1),
        ("next", "Next ›", number + 1, number < of),
        ("last", "Last »", of, number < of),
    ];
    html! {
        @if of > 1 {
            nav.pager aria-label="Pages of the list" {
                @for (name, text, page, possible) in entries {
                    @if possible { a id={ "page-" (name) } href=(to(page)) { (text) } } @else { span { (text) } }
                    @if name == "previous" { span.here { "Page " (number) " of " (of) } }
                }
            }
        }
    }
}
