//! Support for container images: the original's entry point, its retired modules, and the health check.
//!
//! The compose files of the original's guide run `node --trace-warnings … dist/index` and configure the rest
//! by variables. In our image `node` is a link to this program, which then ignores its arguments
//! ([`arguments`]).

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::redirect::Policy;

use crate::{
    all::Bridge,
    config::{self, HealthArgs, OpsListen},
    daemon::{Daemon, Failure},
    data_provider::DataProvider,
    lifecycle::LifecycleManager,
    monitor::Monitor,
    output,
    trader::TraderDaemon,
};

/// The name that the original's entry points call.
const SHIM: &str = "node";
/// Timeout of the ops port.
const TIMEOUT: Duration = Duration::from_secs(4);
/// The message in place of the original's queue page.
const ARENA: &str = "utils/arena is not needed any more: the trade queue's page is part of the trader, at \
                     http://127.0.0.1:4567 where PHALA_MODULE=trade runs, or PHALA_MODULE=lifecycle with \
                     USE_BUILT_IN_TRADER=true (PRB_QUEUE_PAGE_LISTEN moves it). Remove this service.";

/// Returns the program's arguments; none if it is called as `node`, whose arguments are not for it.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<_> = given.into_iter().collect();
    if given.first().is_some_and(|name| Path::new(name).file_name().is_some_and(|name| name == SHIM)) {
        // The name stays, because clap skips the first argument.
        given.truncate(1);
    }
    given
}

/// Returns a message if `PHALA_MODULE` names a module of the original that is not needed any more.
pub fn retired_module(arguments: &[OsString]) -> Option<&'static str> {
    let module = config::module_name().filter(|_| arguments.len() < 2)?;
    matches!(module.to_str(), Some("utils/arena" | "arena")).then_some(ARENA)
}

/// Checks whether this container's daemon is alive.
///
/// # Errors
/// [`Failure::Run`] if it is not, [`Failure::Configuration`] if it is unclear which daemon is meant.
pub fn check_health(args: &HealthArgs) -> Result<(), Failure> {
    let Some(address) = ops_address(args).map_err(Failure::Configuration)? else {
        output::line("PRB_OPS_LISTEN is none: there is nothing to ask");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(error.into()))?;
    runtime.block_on(ask(address)).map_err(Failure::Run)
}

/// Returns the ops port's address: the configured one, or the module's default.
fn ops_address(args: &HealthArgs) -> anyhow::Result<Option<SocketAddr>> {
    let port = match args.ops.ops_listen {
        Some(OpsListen::Off) => return Ok(None),
        Some(OpsListen::At(address)) => return Ok(Some(reachable(address))),
        None => match config::module()? {
            Some("data-provider") => DataProvider::OPS_PORT,
            Some("lifecycle") => LifecycleManager::OPS_PORT,
            Some("trader") => TraderDaemon::OPS_PORT,
            Some("monitor") => Monitor::OPS_PORT,
            Some("all") => Bridge::OPS_PORT,
            _ => bail!("set PHALA_MODULE or PRB_OPS_LISTEN to the daemon's value"),
        },
    };
    Ok(Some((Ipv4Addr::LOCALHOST, port).into()))
}

/// Replaces an unspecified address by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether a daemon answers at its ops port.
pub(crate) async fn is_live(address: SocketAddr) -> bool {
    ask(reachable(address)).await.is_ok()
}

async fn ask(address: SocketAddr) -> anyhow::Result<()> {
    // A proxy configured for the container must not get requests for its own port.
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(TIMEOUT).build()?;
    let answer = client.get(format!("http://{address}/livez")).send().await;
    let answer = answer.with_context(|| format!("the ops port at {address} does not answer"))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => bail!("the ops port at {address} answers {status}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(Into::into).collect()
    }

    #[test]
    fn arguments_are_ignored_when_called_as_node() {
        let entry_point = "node --trace-warnings --experimental-json-modules dist/index";
        assert_eq!(arguments(words(entry_point)), words("node"));
        assert_eq!(arguments(words(&format!("/usr/local/bin/{entry_point}"))), words("/usr/local/bin/node"));
        assert_eq!(arguments(words("prb lifecycle --check")), words("prb lifecycle --check"));
        assert_eq!(arguments(words("/node/prb all")), words("/node/prb all"));
    }

    #[test]
    fn unspecified_address_becomes_loopback() {
        for (listen, ask) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), ask.parse().unwrap());
        }
    }
}
