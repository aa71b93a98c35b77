//! Parachain blocks that change much more than others.

use codec::Encode;
use prb_devnet_runtime::pallets::{actions::Action, load::pallet::Amount};

use super::Devnet;
use crate::Config;

/// The stage of a burst.
#[derive(Debug, Default)]
pub(super) enum Burst {
    #[default]
    None,
    /// The next block requests this many bytes of changes; the block after it makes them.
    Wanted(u32),
    /// The block that makes them restores the usual load.
    Requested,
}

/// Returns the usual load of a block.
pub(super) const fn usual_load(config: &Config) -> Amount {
    Amount {
        changes_per_block: config.changes_per_block,
        change_bytes: config.change_bytes,
        seed: config.seed,
    }
}

impl Devnet {
    /// Makes the second next parachain block change this many bytes of values.
    pub fn burst(&self, bytes: u32) {
        self.0.faults.burst(bytes);
    }

    /// Returns the change of load that block `number` makes for the block after it.
    pub(super) fn load_change(&self, number: u32) -> Option<Action> {
        let config = &self.0.config;
        let mut burst = self.0.burst.lock();
        if config.burst_every != 0 && (number + 1).is_multiple_of(config.burst_every) {
            *burst = Burst::Wanted(config.burst_bytes);
        } else if let Some(bytes) = self.0.faults.take_burst() {
            *burst = Burst::Wanted(bytes);
        }
        let amount = match *burst {
            Burst::None => return None,
            Burst::Wanted(bytes) => {
                *burst = Burst::Requested;
                let of_value = config.burst_value_bytes.max(1);
                let changes_per_block = bytes.div_ceil(of_value);
                Amount { changes_per_block, change_bytes: bytes.min(of_value), seed: config.seed }
            }
            Burst::Requested => {
                *burst = Burst::None;
                usual_load(config)
            }
        };
        // The load pallet reads its settings in `on_initialize`, before inherents and therefore before this
        // action: the change shows in the next block only.
        let mut key = sp_io::hashing::twox_128(b"Load").to_vec();
        key.extend(sp_io::hashing::twox_128(b"Settings"));
        Some(Action::SetStorage { key, value: Some(amount.encode()) })
    }
}
