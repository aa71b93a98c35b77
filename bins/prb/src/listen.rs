//! Ports that speak HTTP: opened as the operator says, and served within bounds.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::config::OpsListen;

/// Connections served at once; more wait to be accepted.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to ask.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a request's head may have: the console's addresses name up to 500 workers.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Pause where the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A port of a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    /// Its name in the log.
    pub(crate) name: &'static str,
    /// The variable that moves it.
    pub(crate) variable: &'static str,
    /// Where it is if the operator says nothing.
    pub(crate) default: SocketAddr,
}

impl Port {
    /// Opens the port, or gives `None` where it is off or its default is taken by another.
    ///
    /// # Errors
    /// Where an address that was asked for cannot be had.
    pub(crate) async fn open(self, chosen: Option<OpsListen>) -> anyhow::Result<Option<TcpListener>> {
        let Self { name, variable, default } = self;
        let address = match chosen {
            Some(OpsListen::Off) => return Ok(None),
            Some(OpsListen::At(address)) => address,
            None => default,
        };
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if chosen.is_none() => {
                tracing::warn!(%address, %error, "no {name}: its default is taken; {variable} gives another");
                Ok(None)
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot open the {name} at {address} ({variable})"))
            }
        }
    }
}

/// Serves connections, a bounded number at once, until dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router, name: &'static str) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), name));
                }
                Err(error) => pause(error, name).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pause(error: io::Error, name: &str) {
    tracing::debug!(%error, "{name}: a connection was not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn connection(stream: TcpStream, router: Router, name: &str) {
    let service = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "{name}: a connection broke");
    }
}
