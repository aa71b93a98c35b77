//! Limits of transactions in a block.

/// Execution time in picoseconds, and proof size in bytes.
type Weight = [Option<u128>; 2];

/// What normal transactions may use of a block; `None` if it is unlimited or not declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockLimits {
    /// Encoded length of all normal transactions together.
    pub(crate) bytes: Option<u128>,
    /// Weight of all normal transactions together.
    pub(crate) block: Weight,
    /// Weight of one transaction, without the base weight.
    pub(crate) extrinsic: Weight,
    /// Base weight of every transaction.
    pub(crate) base: Weight,
}

/// Khala's limits for normal transactions, if a runtime declares none: 375 ms of execution in picoseconds,
/// proof size and length in bytes.
const KHALA_TIME: u128 = 375_000_000_000;
const KHALA_PROOF: u128 = 3_932_160;
const KHALA_BYTES: u128 = 3_932_160;

impl BlockLimits {
    /// The length of a transaction that uses at most `percent` of a block.
    pub(crate) fn bytes(&self, percent: u128) -> u128 {
        self.bytes.unwrap_or(KHALA_BYTES).saturating_mul(percent) / 100
    }

    /// The declared weight that it may use; `None` if the runtime has no limit.
    pub(crate) fn weight(&self, percent: u128) -> Weight {
        [0, 1].map(|part| {
            let share = self.block[part].map(|limit| {
                let share = limit / 100 * percent;
                share.saturating_sub(self.base[part].unwrap_or(0))
            });
            match (share, self.extrinsic[part]) {
                (Some(share), Some(most)) => Some(share.min(most)),
                (share, most) => share.or(most),
            }
        })
    }

    /// The execution time and proof size that it may use by our own minimum estimates: its share of Khala's
    /// block, or of a smaller one that the runtime declares. Many runtimes declare no proof limit, or one that no
    /// relay chain accepts.
    pub(crate) fn share(&self, percent: u128) -> [u128; 2] {
        let khala = [KHALA_TIME, KHALA_PROOF];
        let declared = self.weight(percent);
        [0, 1].map(|part| {
            let own = khala[part].saturating_mul(percent) / 100;
            declared[part].map_or(own, |declared| declared.min(own))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_limited_by_block_and_transaction() {
        let limits = BlockLimits {
            bytes: Some(1_000),
            block: [Some(10_000), None],
            extrinsic: [Some(8_000), Some(7)],
            base: [Some(100), None],
        };
        assert_eq!(limits.bytes(50), 500);
        assert_eq!(limits.share(50), [4_900, 7]);
        let khala = [187_500_000_000, 1_966_080];
        assert_eq!(BlockLimits::default().share(50), khala);
        let unlimited = [Some(u128::from(u64::MAX)); 2];
        assert_eq!(BlockLimits { block: unlimited, ..BlockLimits::default() }.share(50), khala);
        assert_eq!(BlockLimits::default().bytes(50), 1_966_080);
        assert_eq!(limits.weight(50), [Some(4_900), Some(7)]);
        assert_eq!(limits.weight(100), [Some(8_000), Some(7)]);
        assert_eq!(BlockLimits::default().weight(50), [None, None]);
    }
}
