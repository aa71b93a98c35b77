//! `/readyz` as processes give it: not ready before they know, and again when what they need goes away.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::Duration,
};

use prb_walkie::identity::{Identity, Role};
use tokio::time::sleep;

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, free_port, manager, provider},
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Names that have a type and no help.
fn undescribed(metrics: &str) -> BTreeSet<&str> {
    let of = |kind| {
        let lines = metrics.lines().filter_map(move |line| line.strip_prefix(kind)?.split(' ').next());
        lines.collect::<BTreeSet<_>>()
    };
    of("# TYPE ").difference(&of("# HELP ")).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_providers_that_go_away_are_told_and_come_back() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    let mut manager = manager(&net, "lm").set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    for daemon in [&provider, &manager] {
        let metrics = daemon.ops("/metrics").unwrap().1;
        assert_eq!(undescribed(&metrics), BTreeSet::new());
        assert!(metrics.contains("prb_build_info{version="), "{metrics}");
    }

    net.devnet.relay().stop_rpc().await;
    net.devnet.para().stop_rpc().await;
    provider.until_unready(&["no_relay_node", "no_para_node"], LIMIT).await;
    manager.until_unready(&["no_para_node"], LIMIT).await;
    provider.kill();
    manager.until_unready(&["no_data_provider", "no_para_node"], LIMIT).await;
    net.devnet.relay().start_rpc().await.unwrap();
    net.devnet.para().start_rpc().await.unwrap();
    provider.start();
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    manager.stop().await;
    provider.stop().await;
    net.shutdown().await;
}

/// A trader on a chain that is there.
fn trader(net: &Net, redis: &str) -> Daemon {
    let trader = Daemon::new(net.dir.path(), "trade", "trader")
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_Q_REDIS_ENDPOINT", redis)
        .set("PRB_QUEUE_PAGE_LISTEN", "none");
    Identity::generate().unwrap().store(&trader.identity_folder(), Role::Lifecycle).unwrap();
    trader
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trader_is_ready_while_redis_gives_it_jobs() {
    let net = Net::start(chain(), 0).await;
    let mut redis = Redis::start(net.dir.path());
    let mut trader = trader(&net, &redis.url());
    trader.start();
    trader.until_unready(&[], LIMIT).await;
    redis.kill();
    trader.until_unready(&["queue_unreachable"], LIMIT).await;
    let told = trader.ops("/readyz").unwrap().1;
    assert!(told.contains("127.0.0.1") && told.to_lowercase().contains("refused"), "{told}");
    redis.restart(true);
    trader.until_unready(&[], LIMIT).await;
    trader.stop().await;
    drop(redis);

    // One that cannot hand out jobs.
    let port = free_port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--save", "", "--rename-command", "BLMOVE", ""])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _old = support::Process::of(child);
    trader.put("PHALA_Q_REDIS_ENDPOINT", format!("redis://127.0.0.1:{port}"));
    trader.start();
    // Once it has waited for a job, and from then on.
    sleep(Duration::from_secs(3)).await;
    trader.until_unready(&["queue_unreachable"], LIMIT).await;
    let told = trader.ops("/readyz").unwrap().1;
    assert!(told.contains("6.2") && told.contains(&port.to_string()), "{told}");
    trader.stop().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_on_open_files_is_raised_and_too_few_are_told() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    provider = provider
        .launched_by(&["sh", "-c", "ulimit -Sn 256 && ulimit -Hn 700 && exec \"$0\""], [127, 0, 0, 1].into());
    provider.start();
    provider.until_unready(&[], LIMIT).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", provider.process_id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["700", "700"], "{files}");
    assert!(provider.log().contains("LimitNOFILE"), "{}", provider.log_tail());
    provider.stop().await;
    net.shutdown().await;
}
