//! A port that serves pages.

use std::{io, net::SocketAddr};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio::net::TcpListener;

use super::{
    assets,
    guard::{self, Guard, Rules},
    layout,
};
use crate::{
    config::PageArgs,
    listen::{self, Port},
    token::Access,
};

/// An open port that serves pages; run by [`Site::serve`].
#[derive(Debug)]
pub struct Site {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

impl Site {
    /// Creates a port, with the checks for all pages.
    ///
    /// # Errors
    ///
    /// If the system does not return the address of the listener.
    pub(crate) fn new(
        port: Port,
        listener: TcpListener,
        args: &PageArgs,
        access: &Access,
        rules: Rules,
        pages: Router,
    ) -> anyhow::Result<Self> {
        let guard = Guard::new(args.page_hosts.clone(), access.clone(), rules);
        let router = pages
            .merge(assets::router())
            .fallback(async || layout::not_found_page("There is no such page."))
            .layer(DefaultBodyLimit::max(rules.max_body_bytes))
            // The last layer runs first, and covers the assets and unknown paths, too.
            .layer(middleware::from_fn_with_state(guard, guard::enter));
        let address = local_address(&listener, port)?;
        Ok(Self { name: port.name, listener, address, router })
    }

    /// Returns the address it listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until dropped; never ends by itself.
    pub async fn serve(self) {
        listen::serve(self.listener, self.router, self.name).await;
    }
}

fn local_address(listener: &TcpListener, port: Port) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    if address.ip().is_loopback() {
        tracing::info!(%address, "{} open", port.name);
    } else {
        tracing::warn!(%address, "{} open in plain HTTP: anybody who can reach it can read it", port.name);
    }
    Ok(address)
}
