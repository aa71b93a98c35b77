//! Tests of pools, operators and chain parameters, with the devnet's real pallets.

use std::sync::Arc;

use prb_core::{
    chain::{Call, ChainReader, ChainView, Followed, PoolOnChain},
    primitives::{AccountId, PoolId},
    wire::MessageOrigin,
};
use prb_devnet::Config;

use crate::{
    net::{Net, STAKE, Worker},
    reader::{Running, quick},
};

const POOL: PoolId = PoolId(1);

fn pool(view: &ChainView) -> &PoolOnChain {
    view.pools[&POOL].as_ref().expect("it is readable").as_ref().as_ref().expect("there is such a pool")
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_stakes_follow_its_workers() {
    let net = Net::start(Config { cool_down_secs: 0, ..Config::default() }).await;
    let submitter = net.submitter();
    let workers = Worker::several(2);
    net.scored(&submitter, &workers).await;
    let running = Running::start(&net, quick());
    let (operator, owner) = {
        let pool = &net.devnet.pools()[0];
        (AccountId(pool.operator.clone().into()), AccountId(pool.owner.clone().into()))
    };
    running.reader.follow(
        Followed::default()
            .with_workers(workers.iter().map(Worker::key).collect())
            .with_pools([POOL, PoolId(99)].into())
            .with_accounts([operator].into())
            .with_senders([MessageOrigin::Gatekeeper].into()),
    );
    let newest = async || -> Arc<ChainView> {
        let view = running.newest(&net).await;
        let block = view.block.0;
        running.until(|view| view.block.0 >= block && view.pools.len() == 2 && view.senders.len() == 1).await
    };
    let view = newest().await;
    assert_eq!(*view.pools[&PoolId(99)].as_ref().unwrap().as_ref(), None);
    assert_eq!(view.unreadable, []);
    assert_eq!((view.max_pool_workers, view.withdrawal_grace_secs), (Some(200), Some(7 * 24 * 3600)));
    assert!(view.stake_rules.is_some());
    let clock: u64 = net.value_at(view.block.0, "Timestamp", "Now", &[]).unwrap();
    assert_eq!(view.time_ms, clock);
    let funds = view.accounts[&operator].as_ref().unwrap().free;
    assert!(funds > 0);
    let free = pool(&view).free_stake;
    assert!(free >= 2 * STAKE, "{free}");
    assert_eq!((pool(&view).owner, pool(&view).is_vault, pool(&view).workers.len()), (owner, false, 0));

    net.done(&submitter, workers.iter().flat_map(|worker| [worker.add(1), worker.start(1, STAKE)])).await;
    let view = newest().await;
    assert_eq!(pool(&view).free_stake, free - 2 * STAKE);
    assert_eq!((pool(&view).workers.len(), pool(&view).releasing_stake), (2, 0));
    assert!(view.accounts[&operator].as_ref().unwrap().free < funds, "fees were paid");
    let ve = view.workers[&workers[0].key()].as_ref().unwrap().session.as_ref().unwrap().ve;
    let registration = view.workers[&workers[0].key()].as_ref().unwrap().registration.clone().unwrap();
    let score = registration.initial_score.unwrap();
    let rules = view.stake_rules.unwrap();
    assert_eq!(ve, rules.initial_value(STAKE, score, registration.confidence_level));

    let stops = workers.iter().map(|worker| Call::StopComputing { pool: POOL, worker: worker.key() });
    net.done(&submitter, stops).await;
    let view = newest().await;
    assert_eq!((pool(&view).cooling_down.len(), pool(&view).releasing_stake), (2, 2 * STAKE));
    let reclaim = Call::ReclaimWorker { pool: POOL, worker: workers[0].key() };
    net.done(&submitter, [reclaim]).await;
    let view = newest().await;
    assert_eq!((pool(&view).free_stake, pool(&view).releasing_stake), (free - STAKE, STAKE));
    running.stop().await;
    net.stop().await;
}

/// The chain accepts the least stake and refuses one unit less; likewise for the largest.
#[tokio::test(flavor = "multi_thread")]
async fn stake_limits_match_the_chain() {
    let net = Net::start(Config { cool_down_secs: 0, ..Config::default() }).await;
    let submitter = net.submitter();
    let workers = Worker::several(1);
    let worker = &workers[0];
    net.scored(&submitter, &workers).await;
    net.done(&submitter, [worker.add(1)]).await;
    let running = Running::start(&net, quick());
    running.reader.follow(Followed::default().with_workers([worker.key()].into()).with_pools([POOL].into()));
    let view = running.until(|view| view.workers.len() == 1 && view.pools.len() == 1).await;
    let registration = view.workers[&worker.key()].as_ref().unwrap().registration.clone().unwrap();
    let (score, level) = (registration.initial_score.unwrap(), registration.confidence_level);
    let rules = view.stake_rules.unwrap();
    let (min, max, free) = (rules.min_stake(score), rules.max_stake(score, level), pool(&view).free_stake);
    assert!(0 < min && min < max, "{min} to {max}");
    let refused = |outcome: &prb_core::chain::BatchOutcome| {
        outcome.calls[0].as_ref().err().map(|error| error.name.clone())
    };
    // One unit may be below the resolution of the chain's fixed-point root; a millionth of a PHA is not.
    let outcome = net.send(&submitter, &net.batch([worker.start(1, min - 1_000_000)])).await.unwrap();
    assert_eq!(refused(&outcome).as_deref(), Some("PhalaComputation::InsufficientStake"));
    if free > max + 1_000_000 {
        let outcome = net.send(&submitter, &net.batch([worker.start(1, max + 1_000_000)])).await.unwrap();
        assert_eq!(refused(&outcome).as_deref(), Some("PhalaComputation::TooMuchStake"));
    }
    net.done(&submitter, [worker.start(1, min)]).await;
    running.stop().await;
    net.stop().await;
}
