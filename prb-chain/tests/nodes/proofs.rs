//! Tests of useless finality proofs, which are replaced by blocks' justifications or another node.

use super::*;

/// A node that stores justifications at set changes, and every `period` blocks.
fn kept(period: u32, set_length: u32, history: u32) -> Config {
    Config { history, set_length, justification_period: period, ..config() }
}

/// Syncs from one node with this fault, and checks that it is known to lack finality proofs.
async fn syncs_without_proofs(config: Config, fault: ProofFault) {
    let [devnet] = devnets::<1>(config).await;
    devnet.relay().faults().proofs(fault);
    let fetching = Fetching::start(&[&devnet]);
    fetching.has_all_of(&devnet).await;
    let node = &fetching.relay.nodes()[0];
    assert!(!node.health().demoted, "{fault:?} is no lie: {:?}", node.health());
    let lacks = node.health().lacks;
    assert!(lacks.iter().any(|lack| lack.capability == Capability::FinalityProofs), "{fault:?}: {lacks:?}");
    let problems = fetching.relay.problems();
    assert!(problems.iter().all(|problem| !problem.is_blocking), "{problems:?}");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn useless_proofs_fall_back_to_justifications() {
    let faults = [
        ProofFault::Uncovered,
        ProofFault::Null,
        ProofFault::Old,
        ProofFault::TipOnly,
        ProofFault::Truncated(3),
    ];
    for fault in faults {
        syncs_without_proofs(kept(1, 25, 120), fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_proof_falls_back_to_justifications() {
    let [devnet] = devnets::<1>(kept(1, 0, 700)).await;
    limit(devnet.relay(), RpcLimits { answer_bytes: 60_000, ..RpcLimits::default() }).await;
    let fetching = Fetching::start(&[&devnet]);
    fetching.has_all_of(&devnet).await;
    let health = fetching.relay.nodes()[0].health();
    assert!(health.lacks.iter().any(|lack| lack.reason.contains("--rpc-max-response-size")), "{health:?}");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_set_ends_at_stored_justifications() {
    let [devnet] = devnets::<1>(kept(512, 0, 1_200)).await;
    devnet.relay().faults().proofs(ProofFault::Null);
    let fetching = Fetching::start(&[&devnet]);
    fetching.reaches(1_024, 500).await;
    assert!(fetching.store.heights().borrow().relay < Some(RelayNumber(1_100)), "nothing proves more");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_provides_missing_proofs() {
    let devnets = devnets::<2>(kept(0, 0, 200)).await;
    devnets[0].relay().faults().proofs(ProofFault::Null);
    let fetching = Fetching::start(&devnets.each_ref());
    fetching.has_all_of(&devnets[1]).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_justification_is_skipped() {
    let [devnet] = devnets::<1>(kept(1, 0, 120)).await;
    devnet.relay().faults().proofs(ProofFault::Null);
    let newest = devnet.relay().finalized_number();
    devnet.relay().faults().corrupt_justification(newest);
    let fetching = Fetching::start(&[&devnet]);
    fetching.reaches(newest - 1, 1).await;
    assert!(fetching.relay.nodes()[0].health().demoted, "its justification was wrong");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_blocks_of_an_ended_chain_are_proven_without_finality_proofs() {
    let [devnet] = devnets::<1>(kept(1, 25, 60)).await;
    let fetching = Fetching::start(&[&devnet]);
    fetching.has_all_of(&devnet).await;
    devnet.relay().faults().proofs(ProofFault::Null);
    for _ in 0..6 {
        devnet.tick().unwrap();
    }
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_node_is_reported_before_history_is_fetched() {
    let [devnet] = devnets::<1>(kept(8, 25, 300)).await;
    // The start is known already, as after a restart, and nothing else.
    devnet.relay().faults().hold("grandpa_proveFinality");
    let fetching = Fetching::start(&[&devnet]);
    until("the start", || fetching.store.genesis().is_some()).await;
    let dir = fetching.stop().await;
    devnet.relay().faults().heal();
    devnet.relay().faults().prune_below(290);
    let from = devnet.relay().rpc_counters().get("grandpa_proveFinality").copied().unwrap_or(0);
    let fetching = Fetching::between(relay_pool(&[&devnet]), para_pool(&[&devnet]), dir);
    until("a problem", || !fetching.relay.problems().is_empty()).await;
    let [problem] = fetching.relay.problems().try_into().unwrap();
    assert_eq!((problem.code, problem.is_blocking), ("states_missing", true));
    assert!(problem.message.contains("--state-pruning archive"), "{}", problem.message);
    let asked = devnet.relay().rpc_counters().get("grandpa_proveFinality").copied().unwrap_or(0);
    assert_eq!(asked, from, "no history is fetched that is of no use");
    devnet.relay().faults().heal();
    fetching.has_all_of(&devnet).await;
    assert_eq!(fetching.relay.problems(), []);
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_node_beside_an_archive_node_costs_nothing() {
    let devnets = devnets::<2>(kept(8, 25, 200)).await;
    for node in [devnets[0].relay(), devnets[0].para()] {
        node.faults().prune_below(node.finalized_number().saturating_sub(5));
    }
    let fetching = Fetching::start(&devnets.each_ref());
    fetching.has_all_of(&devnets[1]).await;
    fetching.stop().await;
}
