//! Style, script and icon: embedded, with a hash of the content in their path, so that browsers can cache
//! them forever.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::LazyLock,
};

use axum::{
    Router,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// One file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

pub(crate) const STYLE: Asset = Asset {
    name: "page.css",
    kind: "text/css; charset=utf-8",
    content: include_str!("../../assets/page.css"),
};
pub(crate) const SCRIPT: Asset = Asset {
    name: "page.js",
    kind: "text/javascript; charset=utf-8",
    content: include_str!("../../assets/page.js"),
};
pub(crate) const ICON: Asset =
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_str!("../../assets/icon.svg") };

const ALL: [Asset; 3] = [STYLE, SCRIPT, ICON];

impl Asset {
    /// Returns its path, which depends on its content.
    pub(crate) fn path(self) -> String {
        static VERSION: LazyLock<u64> = LazyLock::new(|| {
            // Its result may differ between releases of Rust: browsers then fetch the files once more.
            let mut hasher = DefaultHasher::new();
            ALL.iter().for_each(|asset| asset.content.hash(&mut hasher));
            hasher.finish()
        });
        format!("/assets/{:016x}/{}", *VERSION, self.name)
    }
}

/// Returns the route that serves them.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{version}/{name}", get(serve))
}

/// Any hash is accepted: after an update, a page of the older program requests its own version once more.
async fn serve(Path((_, name)): Path<(String, String)>) -> Response {
    match ALL.iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
