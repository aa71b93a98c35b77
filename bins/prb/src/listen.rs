//! HTTP listeners: opened as configured, and served within limits.
//!
//! Connections, requests worked on and streams each have shares by address, with a reserve for this machine
//! ([`Shares`]); where all connections are taken, an address that has fewer takes the slot of one that has more.
//! Connections beyond these are served for a moment ([`reserve`]). A request's head, its body and its answer each have a
//! time limit: a client that sends or reads too slowly is disconnected.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::ConnectInfo,
    http::{Extensions, HeaderValue, Request, Response, header},
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::config::OpsListen;

mod activity;
mod body;
mod connections;
mod reserve;
mod shares;
mod writes;

use activity::{Activity, Phase};
use body::{Held, ReceivesOnDrop, TimedBody};
use connections::Connections;
use reserve::Reserve;
pub(crate) use shares::{Limits, Shares, Slot, is_this_machine};
use writes::TimedWrites;

/// Connections served at once from this machine; the shares of others follow from it ([`Limits::of`]).
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to send a request.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may accept no data.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// For a request's head.
    head: Duration,
    /// For its body, once it is waited for.
    body: Duration,
    /// To take any of an answer.
    write: Duration,
    /// For a connection, whatever it asks.
    connection: Duration,
    /// For one of the reserve.
    reserved: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            head: HEADER_TIMEOUT,
            body: Duration::from_secs(20),
            write: WRITE_TIMEOUT,
            connection: Duration::from_secs(60),
            reserved: Duration::from_secs(2),
        }
    }
}

/// How a port is served.
#[derive(Clone, Debug)]
struct Settings {
    /// The port's name in the log.
    name: &'static str,
    /// What answers connections beyond the shares.
    reserve: Router,
    /// Bytes that a request's head may have.
    head_bytes: usize,
    times: Times,
}

/// Bytes that a request's head may have.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The same on ports with pages: the console's URLs name up to 500 workers.
/// Each takes 40 bytes: `&id=` and 36 characters.
const MAX_PAGE_HEAD_BYTES: usize = 32 * 1024;
/// Pause if the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A port of a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    /// Its name in the log.
    pub(crate) name: &'static str,
    /// The variable that configures it.
    pub(crate) variable: &'static str,
    /// Its default address.
    pub(crate) default: SocketAddr,
}

impl Port {
    /// Opens the port; `None` if it is disabled, or its default address is in use.
    ///
    /// # Errors
    /// A configured address is not available.
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
                tracing::warn!(%address, error = %prb_core::text::describe(&error), "the {name} is not opened: its default address cannot be used; set {variable} to another one");
                Ok(None)
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot open the {name} at {address} ({variable})"))
            }
        }
    }
}

/// Serves connections, a bounded number at once, until dropped. Clients beyond their share get 503, except for a few
/// requests at a time.
pub(crate) async fn serve(listener: TcpListener, router: Router, name: &'static str) {
    let (times, reserve) = (Times::default(), reserve::plain_requests(&router));
    serve_within(listener, router, Settings { name, reserve, head_bytes: MAX_PAGE_HEAD_BYTES, times }).await;
}

/// The same, with another `reserve` for clients beyond their share.
pub(crate) async fn serve_with(listener: TcpListener, router: Router, name: &'static str, reserve: Router) {
    let times = Times::default();
    serve_within(listener, router, Settings { name, reserve, head_bytes: MAX_HEAD_BYTES, times }).await;
}

async fn serve_within(listener: TcpListener, router: Router, settings: Settings) {
    let mut open = Connections::new(Shares::new(Limits::of(MAX_CONNECTIONS)));
    let (mut connections, mut reserve) = (JoinSet::new(), Reserve::default());
    loop {
        // Not biased: a flood of new connections must not keep ended ones from being removed.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (settings, activity) = (settings.clone(), Activity::default());
                    let turn = activity.clone();
                    if let Some(slot) = open.admit(peer.ip()) {
                        let router = router.clone();
                        let task = connections.spawn(async move {
                            connection(stream, peer, router, &settings, settings.times.connection, turn).await;
                        });
                        // Not too late: ended connections are only handled by this loop.
                        open.opened(slot, activity, task);
                    } else {
                        reserve.spawn(activity, async move {
                            let router = settings.reserve.clone();
                            connection(stream, peer, router, &settings, settings.times.reserved, turn).await;
                        });
                    }
                }
                Err(error) => pause(error, settings.name).await,
            },
            Some(ended) = connections.join_next_with_id() => {
                open.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            () = reserve.ended() => {}
        }
    }
}

/// The address that a request comes from; this machine's where it comes over no connection, as in tests.
pub(crate) fn peer_of(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(address)| address.ip())
}

/// Closes the connection of a client that is to try again later, so that it holds no slot meanwhile. Not if the client may
/// still be sending: it would see a broken connection rather than the answer.
fn close_if_busy<B>(answer: &mut Response<B>) {
    if answer.headers().contains_key(header::RETRY_AFTER) {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

async fn pause(error: io::Error, name: &str) {
    tracing::debug!(%error, "{name}: cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves one connection for at most `limit`: a request that is being answered then has as long again.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    settings: &Settings,
    limit: Duration,
    activity: Activity,
) {
    let Settings { name, times, .. } = settings;
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let has_body = !request.body().is_end_stream();
        // Before the call, which sets it to `Receiving` when it has to wait for the body.
        activity.set(Phase::Working);
        let answered = router.call(request.map(|body| TimedBody::new(body, times.body, activity.clone())));
        let activity = activity.clone();
        async move {
            // Between two requests of a stranger's pipeline everything else has its turn, too.
            if !is_this_machine(peer.ip()) {
                tokio::task::yield_now().await;
            }
            let mut answer = answered.await?;
            if !has_body {
                close_if_busy(&mut answer);
            }
            activity.set(Phase::Answering);
            Ok::<_, Infallible>(answer.map(|body| Held::new(body, ReceivesOnDrop(activity))))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // A connection of the reserve lasts shorter than a head may take.
        .header_read_timeout(times.head.min(limit))
        .max_buf_size(settings.head_bytes)
        .serve_connection(TokioIo::new(TimedWrites::new(stream, times.write)), service);
    let mut serving = pin!(serving);
    let served = match timeout(limit, serving.as_mut()).await {
        Ok(served) => served,
        Err(_) => {
            // An idle connection closes at once; a request that is being answered is the last one.
            serving.as_mut().graceful_shutdown();
            match timeout(limit.max(times.write), serving).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!("{name}: a connection was closed after its time limit"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "{name}: a connection failed");
    }
}

#[cfg(test)]
mod tests;
