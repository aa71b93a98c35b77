//! What no node of a pool offers, for readiness, pages and logs.

use super::{Capability, NodePool};

/// Something that keeps a pool's chain from being followed, or slows it down, until an operator changes a
/// node or the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// A stable name: `relay-states-missing`, `para-storage-changes-missing`, `relay-finality-proofs-missing`,
    /// `para-other-chain`, `relay-no-trusted-node` and the like.
    pub code: String,
    /// What happened, to which nodes, and what to do.
    pub message: String,
    /// Whether nothing goes on until it is solved; otherwise it costs time.
    pub is_blocking: bool,
}

impl NodePool {
    /// What is wrong with the pool as a whole, as far as its nodes have shown: something that every node
    /// lacks, another chain's nodes alone, liars alone.
    ///
    /// Asks nothing. A problem ends once a node has offered what was missing.
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
                    code: format!("{chain}-{}-missing", capability.name()),
                    message: format!(
                        "no {chain} node offers this: {}: {}",
                        reasons.join("; "),
                        capability.remedy()
                    ),
                    is_blocking: capability != Capability::FinalityProofs,
                });
            }
        }
        let errors = |of: fn(&super::Health) -> bool| -> Option<String> {
            let all: Vec<_> = healths.iter().filter(|health| of(health)).collect();
            (all.len() == healths.len()).then(|| {
                let texts: Vec<_> =
                    all.iter().map(|health| health.last_error.clone().unwrap_or_default()).collect();
                texts.join("; ")
            })
        };
        if let Some(errors) = errors(|health| health.other_chain) {
            problems.push(Problem {
                code: format!("{chain}-other-chain"),
                message: errors,
                is_blocking: true,
            });
        } else if let Some(errors) = errors(|health| health.demoted || health.other_chain) {
            let message = format!("every {chain} node answered wrongly: {errors}: add another endpoint");
            problems.push(Problem { code: format!("{chain}-no-trusted-node"), message, is_blocking: true });
        }
        problems
    }
}
