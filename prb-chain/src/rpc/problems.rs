//! Problems of a pool as a whole, for readiness, pages and logs.

use super::{Capability, NodePool};

/// A problem that stops or slows down following a pool's chain until an operator changes a node or the
/// endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The pool's chain.
    pub chain: &'static str,
    /// A stable code: `states_missing`, `storage_changes_missing`, `finality_proofs_missing`, `other_chain`,
    /// `genesis_disputed` or `no_trusted_node`.
    pub code: &'static str,
    /// What happened, on which nodes, and what to do.
    pub message: String,
    /// Whether it blocks progress until solved; otherwise it only slows it down.
    pub is_blocking: bool,
}

impl NodePool {
    /// Returns the problems of the pool as a whole, as far as its nodes have shown: a capability that every node
    /// lacks, different genesis blocks, only nodes of another chain, only demoted nodes.
    ///
    /// Sends no requests. A problem ends once a node has offered what was missing.
    pub fn problems(&self) -> Vec<Problem> {
        let healths: Vec<_> = self.nodes().iter().map(|node| node.health()).collect();
        let chain = self.chain();
        let mut problems = Vec::new();
        for capability in [Capability::States, Capability::StorageChanges, Capability::FinalityProofs] {
            let reasons: Vec<String> = healths
                .iter()
                .filter_map(|health| {
                    let lack = health.lacks.iter().find(|lack| lack.capability == capability)?;
                    Some(lack.reason.clone())
                })
                .collect();
            if reasons.len() == healths.len() {
                problems.push(Problem {
                    chain,
                    code: capability.missing(),
                    message: format!(
                        "no {chain} node offers this: {}: {}",
                        reasons.join("; "),
                        capability.remedy()
                    ),
                    is_blocking: capability != Capability::FinalityProofs,
                });
            }
        }
        let errors_if_all = |is_so: fn(&super::Health) -> bool| -> Option<String> {
            let all: Vec<_> = healths.iter().filter(|health| is_so(health)).collect();
            (all.len() == healths.len()).then(|| {
                let texts: Vec<_> =
                    all.iter().map(|health| health.last_error.clone().unwrap_or_default()).collect();
                texts.join("; ")
            })
        };
        if let Some(claims) = self.inner.pins.dispute() {
            let message = super::Error::GenesisDisputed { chain, claims }.to_string();
            problems.push(Problem { chain, code: "genesis_disputed", message, is_blocking: true });
        } else if let Some(errors) = errors_if_all(|health| health.other_chain) {
            problems.push(Problem { chain, code: "other_chain", message: errors, is_blocking: true });
        } else if let Some(errors) = errors_if_all(|health| health.demoted || health.other_chain) {
            let message = format!("every {chain} node answered wrongly: {errors}: add another endpoint");
            problems.push(Problem { chain, code: "no_trusted_node", message, is_blocking: true });
        }
        problems
    }
}
