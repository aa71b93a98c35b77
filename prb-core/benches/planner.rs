//! What deciding costs: the plan of 10,000 workers, and their decisions.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prb_core::{
    blob::Heights,
    chain::WorkerOnChain,
    inventory::{Operator, Pool, Worker},
    primitives::{AccountId, Hash, ParaNumber, PoolId, RelayNumber},
    prpc::PhactoryInfo,
    sync::{Limits, Position, plan},
    vault::Sealed,
    worker::{Desired, Observed, Settings, decide},
};
use uuid::Uuid;

const WORKERS: u32 = 10_000;

fn tip() -> Heights {
    Heights {
        relay: Some(RelayNumber(2_000_000)),
        para: Some(ParaNumber(1_000_000)),
        relay_target: None,
        para_target: None,
    }
}

/// Some at the tip, some behind by as much as there is.
fn positions() -> Vec<Position> {
    (0..WORKERS)
        .map(|n| {
            let para = if n % 2 == 0 { 1_000_001 } else { n * 97 % 1_000_000 };
            Position {
                relay_header: RelayNumber(2 * para),
                para_header: ParaNumber(para),
                block: ParaNumber((para - n % 3).max(1)),
            }
        })
        .collect()
}

fn desired() -> Desired {
    let operator = Operator { account: AccountId([1; 32]), key: Sealed(vec![]) };
    let pool = Pool::new(Uuid::nil(), PoolId(1), "pool").with_operator(operator);
    let worker = Worker::new(Uuid::nil(), PoolId(1), "worker", "http://w", 1);
    Desired { worker: Arc::new(worker), pool: Some(Arc::new(pool)) }
}

fn planner(c: &mut Criterion) {
    let (positions, tip, limits) = (positions(), tip(), Limits::default());
    let mut group = c.benchmark_group("planner");
    group.throughput(Throughput::Elements(u64::from(WORKERS)));
    group.bench_function("plan 10,000 workers", |b| {
        b.iter(|| {
            for position in &positions {
                black_box(plan(*black_box(position), &tip, &limits));
            }
        });
    });
    let (desired, settings) = (desired(), Settings::default());
    let info = PhactoryInfo {
        initialized: true,
        genesis_block_hash: Some(hex::encode([0; 32])),
        ..PhactoryInfo::default()
    };
    let observed: Vec<Observed> = positions
        .iter()
        .map(|position| Observed {
            info: Some(Arc::new(info.clone())),
            position: *position,
            heights: tip,
            relay_genesis: Some(Hash::default()),
            step: plan(*position, &tip, &limits),
            caught_up: position.lag(&tip) == Some(0),
            chain: Some(Ok(Arc::new(WorkerOnChain::default()))),
            ..Observed::default()
        })
        .collect();
    group.bench_function("decide for 10,000 workers", |b| {
        b.iter(|| {
            for observed in &observed {
                black_box(decide(&desired, &settings, black_box(observed)));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, planner);
criterion_main!(benches);
