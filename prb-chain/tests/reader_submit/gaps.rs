//! Tests of transactions behind missing nonces, and behind lagging finality.

use std::time::Duration;

use prb_core::chain::ChainSubmitter;
use prb_devnet::{Config, TransactionFault};
use tokio::sync::mpsc;

use crate::{
    net::{MORTALITY, Net, Worker, config},
    outside::remark,
    shared::beside_another,
    troubles::{SUBMIT, asked, in_block, submitter},
};

/// Sends a transaction behind a nonce whose transaction was dropped, and checks the result.
async fn behind_a_gap(fill_nonce_gaps: bool) {
    let net = Net::start(Config::default()).await;
    let patient = config()
        .with_mortality_blocks(1_024)
        .with_unavailable_after(Duration::from_secs(50))
        .with_fill_nonce_gaps(fill_nonce_gaps);
    let (worker, submitter) = (Worker::new(1), submitter(&net, patient));
    let (para, faults) = (net.devnet.para(), net.devnet.para().faults());
    let operator = net.operator(0);
    let (sender, _progress) = mpsc::channel(8);
    let registration = net.batch([worker.register(&net)]);
    beside_another(&net, submitter.submit(&registration, sender)).await.unwrap();
    net.finalise(para.best_number() + 2);
    let before = net.transactions();
    // Its transaction is counted when ours gets its nonce, and dropped before ours is sent.
    let nonce = para.next_nonce(&operator.0).unwrap();
    para.submit(remark(&net, nonce.into(), 0).await).unwrap();
    para.reset_rpc_counters();
    faults.hold(SUBMIT);
    let batch = net.batch([worker.bench_report(&net, 0)]);
    let (sender, _progress) = mpsc::channel(8);
    let dropped = async {
        asked(&net.devnet, SUBMIT, 1).await;
        faults.transactions(TransactionFault::Dropped);
        net.tick();
        net.tick();
        assert!(para.pending_extrinsics().is_empty());
        faults.transactions(TransactionFault::None);
        faults.release(SUBMIT);
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            net.tick();
        }
    };
    let outcome = net.still(async {
        tokio::select! { outcome = submitter.submit(&batch, sender) => outcome, () = dropped => unreachable!() }
    });
    assert_eq!(outcome.await.unwrap().calls, [Ok(())]);
    // The filler and ours.
    assert_eq!((net.transactions() - before, net.ingress(&worker)), (2, 1));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonce_gap_is_filled_at_once_if_configured() {
    behind_a_gap(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonce_gap_is_filled_after_some_blocks_by_default() {
    behind_a_gap(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finality_lag_beyond_mortality_does_not_prevent_inclusion() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let para = net.devnet.para();
    net.devnet.hold_para(true);
    while para.best_number() < para.finalized_number() + 2 * MORTALITY {
        net.tick();
    }
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let resumed = async {
        in_block(&mut progress).await;
        net.devnet.hold_para(false);
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), resumed) }).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())]);
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}
