//! What all pages share: the shell, parts that keep themselves fresh, and plain messages.

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{
    TokenPlace,
    assets::{ICON, SCRIPT, STYLE},
};

/// Around a page's content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shell<'a> {
    /// What the window is called.
    pub(crate) title: &'a str,
    /// The entries of the head: path and name; the first is where the brand leads.
    pub(crate) entries: &'a [(&'a str, &'a str)],
    /// The path of the entry that is shown.
    pub(crate) here: &'a str,
    /// Where the parts come from that keep themselves fresh.
    pub(crate) live: Option<&'a str>,
    /// Whether `live` can also stream what changes.
    pub(crate) is_stream: bool,
    /// Where the token is that changes need; `None` on pages without changes.
    pub(crate) token: Option<&'a TokenPlace>,
}

impl Shell<'_> {
    /// The whole page.
    pub(crate) fn around(&self, content: &Markup) -> Markup {
        let home = self.entries.first().map_or("/", |(path, _)| path);
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Runtime Bridge" }
                    link rel="icon" href=(ICON.path());
                    link rel="stylesheet" href=(STYLE.path());
                    script src=(SCRIPT.path()) defer {}
                }
                body {
                    header.top {
                        a.brand href=(home) { "Runtime Bridge" }
                        nav aria-label="Pages" {
                            @for (path, name) in self.entries {
                                a href=(path) aria-current=[(*path == self.here).then_some("page")] { (name) }
                            }
                        }
                        @if self.token.is_some() { button #token.quiet type="button" hidden { "Token" } }
                    }
                    p #offline.notice.bad role="alert" hidden {}
                    main data-live=[self.live] data-stream[self.is_stream] { (content) }
                    p #said role="status" aria-live="polite" hidden {}
                    @if let Some(place) = self.token { (token_dialog(place)) }
                    noscript { p.notice { "Without JavaScript this page stands still and changes nothing." } }
                }
            }
        }
    }
}

fn token_dialog(place: &TokenPlace) -> Markup {
    html! {
        dialog #token-dialog aria-labelledby="token-title" {
            form method="dialog" {
                h2 #token-title { "Token" }
                p #token-why {
                    @match &place.0 {
                        Some(place) => { "Changes need the token that is in " (place) ". It is kept until this tab is closed." }
                        None => { "No token is configured (PRB_API_TOKEN): nothing can be changed here." }
                    }
                }
                label { "Token" input #token-value type="password" autocomplete="off" maxlength="4096"; }
                p.buttons {
                    button type="submit" value="cancel" formnovalidate { "Cancel" }
                    button #token-use.main type="submit" value="use" { "Use it" }
                }
            }
        }
    }
}

/// A part that keeps itself fresh: [`Shell::live`] gives it under the same name.
pub(crate) fn part(name: &str, content: &Markup) -> Markup {
    html! { section id=(name) data-part { (content) } }
}

/// A sentence that answers a request: a page for people, JSON for scripts.
pub(crate) fn said(headers: &HeaderMap, status: StatusCode, text: &str) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        (status, message(text)).into_response()
    } else {
        (status, Json(serde_json::json!({ "message": text }))).into_response()
    }
}

/// A page for what is not there.
pub(crate) fn nothing_here(text: &str) -> Response {
    (StatusCode::NOT_FOUND, message(text)).into_response()
}

fn message(text: &str) -> Markup {
    let shell = Shell { title: "Message", entries: &[], here: "", live: None, is_stream: false, token: None };
    shell.around(&html! {
        p.notice { (text) }
        p { a href="/" { "Back" } }
    })
}
