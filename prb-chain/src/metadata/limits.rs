//! How much of a block a transaction may take.

/// Time in picoseconds and bytes of proof.
type Weight = [Option<u128>; 2];

/// What ordinary transactions may take of a block; `None` where nothing limits them, or nothing is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockLimits {
    /// All of them together, encoded.
    pub(crate) bytes: Option<u128>,
    /// All of them together.
    pub(crate) block: Weight,
    /// One of them, without what every transaction costs.
    pub(crate) extrinsic: Weight,
    /// What every transaction costs besides.
    pub(crate) base: Weight,
}

/// What Khala's blocks have for ordinary transactions, where a runtime does not tell: 375 ms of execution in
/// picoseconds, bytes of proof, bytes of length.
const KHALA_TIME: u128 = 375_000_000_000;
const KHALA_PROOF: u128 = 3_932_160;
const KHALA_BYTES: u128 = 3_932_160;

impl BlockLimits {
    /// Bytes that a transaction may have that takes at most `percent` of a block.
    pub(crate) fn bytes(&self, percent: u128) -> u128 {
        self.bytes.unwrap_or(KHALA_BYTES).saturating_mul(percent) / 100
    }

    /// The declared weight that it may have; `None` where the runtime does not limit it.
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

    /// The execution time and proof that it may take by our own floors: its share of Khala's block, or of a
    /// smaller one that the runtime declares. Many runtimes declare no limit on proofs, or one that no relay chain
    /// takes.
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
    fn a_share_is_of_the_block_and_no_more_than_one_transaction_may_have() {
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
