//! Shared layout of all pages: the shell, parts that update themselves, and messages.

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{
    TokenLocation,
    assets::{ICON, SCRIPT, STYLE},
};

/// The frame around a page's content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shell<'a> {
    /// The title of the window.
    pub(crate) title: &'a str,
    /// The navigation entries: path and name; the brand links to the first.
    pub(crate) entries: &'a [(&'a str, &'a str)],
    /// The path of the current entry.
    pub(crate) here: &'a str,
    /// The URL of the parts that update.
    pub(crate) live: Option<&'a str>,
    /// Whether `live` can also stream changes.
    pub(crate) is_stream: bool,
    /// Where the token for changes is; `None` on pages without changes.
    pub(crate) token: Option<&'a TokenLocation>,
}

impl Shell<'_> {
    /// Renders the whole page.
    pub(crate) fn wrap(&self, content: &Markup) -> Markup {
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
                        // Hidden until the script shows it: without the script nothing can be changed.
                        @if self.token.is_some() { button #token.quiet type="button" hidden { "Token" } }
                    }
                    p #offline.notice.bad role="alert" hidden {}
                    main data-live=[self.live] data-stream[self.is_stream] { (content) }
                    p #said role="status" aria-live="polite" hidden {}
                    @if let Some(token) = self.token { (token_dialog(token)) }
                    noscript { p.notice { "Without JavaScript this page does not update and cannot change anything." } }
                }
            }
        }
    }
}

fn token_dialog(token: &TokenLocation) -> Markup {
    html! {
        dialog #token-dialog aria-labelledby="token-title" {
            // Closes the dialog without sending anything: the script keeps the token in the tab.
            form method="dialog" {
                h2 #token-title { "Token" }
                p #token-why {
                    @match &token.0 {
                        Some(location) => { "Changes need the token that is in " (location) ". It is kept until this tab is closed." }
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

/// Renders a part that updates: [`Shell::live`] returns it under the same name.
pub(crate) fn part(name: &str, content: &Markup) -> Markup {
    // The script replaces the section with the same id.
    html! { section id=(name) data-part { (content) } }
}

/// Answers with a sentence: as a page for browsers, as JSON for scripts.
pub(crate) fn message_response(headers: &HeaderMap, status: StatusCode, text: &str) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        (status, message(text)).into_response()
    } else {
        (status, Json(serde_json::json!({ "message": text }))).into_response()
    }
}

/// Renders the page of an unknown path.
pub(crate) fn not_found_page(text: &str) -> Response {
    (StatusCode::NOT_FOUND, message(text)).into_response()
}

fn message(text: &str) -> Markup {
    let shell = Shell { title: "Message", entries: &[], here: "", live: None, is_stream: false, token: None };
    shell.wrap(&html! {
        p.notice { (text) }
        p { a href="/" { "Back" } }
    })
}
